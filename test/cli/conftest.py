"""The bag of two laps, and settings that suit it."""

from __future__ import annotations

from pathlib import Path

import laps
import pytest
import yaml
from bags import write_image_bag


@pytest.fixture(scope='session')
def bag(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'two_laps.bag'
    return write_image_bag(path, laps.images(), odometry=laps.true_poses(),
                           truth=laps.true_poses())


@pytest.fixture
def params(tmp_path) -> Path:
    path = tmp_path / 'params.yaml'
    path.write_text(yaml.safe_dump({'vpr': {'ros__parameters': laps.SETTINGS}}))
    return path
