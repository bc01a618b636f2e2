from __future__ import annotations

import laps
import numpy as np
import pytest

from selavpr_ros.config import make_settings
from selavpr_ros.models import load_from_settings
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.pose import Pose


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
