"""The reference outputs of the published implementations, each loaded once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from models_support import Golden


@pytest.fixture(scope='session')
def golden(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Golden]:
    """Gives the reference of 'selavpr', 'selavpr_reg', 'cricavpr', 'salad' or 'fol'."""
    folder = tmp_path_factory.mktemp('goldens')

    @cache
    def load(name: str) -> Golden:
        return Golden(shared / 'goldens' / f'{name}_tiny.pt', folder / f'{name}.pth')

    return load
