"""What many tests need: the shared reference data, and small real images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / 'shared'


@pytest.fixture(autouse=True, scope='session')
def _one_thread():
    """Tests are small, and share the cores with node processes: a second thread is a quarrel."""
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def shared() -> Path:
    """Folder of goldens and real images beside the repository; skips where there is none."""
    if not (SHARED / 'goldens').is_dir():
        reason = 'needs the reference data in ../shared'
        if os.environ.get('SELAVPR_REQUIRE_SHARED'):
            pytest.fail(reason)
        pytest.skip(reason)
    return SHARED
