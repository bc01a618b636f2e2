"""Stage 2: the systems that turn a normalised image into Descriptors.

`families/` has one file for each family of systems; the other files are their building blocks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selavpr_ros.models.base import Descriptors, VprModel
    from selavpr_ros.models.loading import (
        choose_device,
        choose_dtype,
        load_from_settings,
        load_model,
        warm_up,
    )

__all__ = [
    'Descriptors', 'VprModel', 'choose_device', 'choose_dtype', 'load_from_settings', 'load_model',
    'warm_up']


def __getattr__(name: str) -> Any:
    """Import a name on first use, so that listing the systems does not import torch."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    home = 'base' if name in ('Descriptors', 'VprModel') else 'loading'
    return getattr(import_module(f'{__name__}.{home}'), name)
