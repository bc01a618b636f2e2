"""Visual place recognition for ROS 2: from camera images to loop-closure candidates."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selavpr_ros.images.preprocess import preprocess
    from selavpr_ros.matching.mutual import count_mutual_matches
    from selavpr_ros.models.loading import load_model
    from selavpr_ros.place_recognizer import PlaceRecognizer
    from selavpr_ros.pose import Pose
    from selavpr_ros.settings import Settings

__version__ = '0.1.0'
__all__ = [
    'PlaceRecognizer', 'Pose', 'Settings', 'count_mutual_matches', 'load_model', 'preprocess']

_HOMES = {
    'PlaceRecognizer': 'place_recognizer',
    'Pose': 'pose',
    'Settings': 'settings',
    'count_mutual_matches': 'matching.mutual',
    'load_model': 'models.loading',
    'preprocess': 'images.preprocess',
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: torch alone takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
