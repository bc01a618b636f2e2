"""The reference outputs of the published implementations, each loaded once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from models_support import Golden


@pytest.fixture(scope='session')
def golden(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Golden]:
    """Gives the reference of 'selavpr', 'selavpr_reg', 'cricavpr', 'salad' or 'fol'."""
    folder = tmp_path_factory.mktemp('goldens')

    @cache
    def load(name: str) -> Golden:
        return Golden(shared / 'goldens' / f'{name}_tiny.pt', folder / f'{name}.pth')

    return load


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks lose more by waiting for a second thread than they win."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
