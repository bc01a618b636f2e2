"""What many tests need: the shared reference data, and small real images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import laps
import numpy as np
import pytest
import torch

from selavpr_ros.models import load_from_settings
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.pose import Pose
from selavpr_ros.settings import make_settings

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


@pytest.fixture
def write_images(tmp_path) -> Callable[[str, Sequence[str]], Path]:
    """Write small images of these names into a folder; what they show does not matter."""

    def write(folder: str, names: Sequence[str]) -> Path:
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        for name in names:
            cv2.imwrite(str(path / name), np.zeros((4, 4, 3), np.uint8))
        return path

    return write


# ---- two laps -----------------------------------------------------------------------------------


@pytest.fixture(scope='session')
def images() -> list[tuple[int, np.ndarray]]:
    return laps.images()


@pytest.fixture(scope='session')
def true_poses() -> list[tuple[int, Pose]]:
    return laps.true_poses()


@pytest.fixture
def make_recognizer():
    """A recogniser for the two laps; other settings by name, with __ for the dot."""

    def make(**changes: object) -> PlaceRecognizer:
        named = {name.replace('__', '.'): value for name, value in changes.items()}
        settings = make_settings({**laps.SETTINGS, **named})
        return PlaceRecognizer(load_from_settings(settings.model), settings)

    return make
