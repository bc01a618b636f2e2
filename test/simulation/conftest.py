"""A small town, built once, and worlds of a few hand-made walls with known geometry."""

import numpy as np
import pytest

from selavpr_ros.simulation import Camera, DriveSettings, Route, World, drive
from selavpr_ros.simulation.ground import Ground
from selavpr_ros.simulation.houses import Wall
from selavpr_ros.simulation.sky import HEIGHT_PX, WIDTH_PX, Sky
from selavpr_ros.simulation.world import Walls

SKY_BLUE = (40, 90, 250)
EARTH = (90, 160, 60)


@pytest.fixture(scope='session')
def town():
    return World.generate(seed=0, length_m=60.0, ground_pixels_per_m=16.0)


@pytest.fixture(scope='session')
def small_camera():
    return Camera(width=96, height=72)


@pytest.fixture(scope='session')
def two_laps(town):
    settings = DriveSettings(speed_m_per_s=6.0, image_rate_hz=2.0)
    return drive(town.route, settings, seed=0)


@pytest.fixture
def make_world():
    """(walls, things) -> World over plain earth, under a plain sky, round the origin."""

    def make(walls, things=()):
        return World(
            seed=0,
            route=Route.through(np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])),
            streets=(),
            walls=Walls.gather(walls),
            things=tuple(things),
            ground=Ground(np.full((400, 400, 3), EARTH, np.uint8), -50.0, 50.0, 4.0),
            sky=Sky(
                np.full((HEIGHT_PX, WIDTH_PX, 3), SKY_BLUE, np.uint8),
                np.zeros((4, WIDTH_PX, 4), np.uint8),
            ),
            blocks=(),
        )

    return make


@pytest.fixture
def wall_ahead():
    """(x, left y, right y, top, colour) -> a wall across the x axis that faces the origin."""

    def make(x_m, left_m, right_m, top_m, colour, bottom_m=0.0):
        picture = np.full((64, 64, 3), colour, np.uint8)
        start, end = np.array([x_m, left_m]), np.array([x_m, right_m])
        return Wall(start, end, bottom_m, top_m, picture)

    return make
