"""People on the pavements and cars on the roads; they differ at every visit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from selavpr_ros.pose import Pose
from selavpr_ros.simulation.sprites import (
    Sprite,
    Thing,
    paint_car_end,
    paint_car_flank,
    paint_person,
)
from selavpr_ros.simulation.streets import Street
from selavpr_ros.simulation.world import World

Painter = Callable[[np.random.Generator], Sprite]

FARTHEST_M = 25.0
PERSON_M = 3.0  # a person nearer than this ahead of the camera hides the place
CAR_M = 6.0  # a car nearer than this ahead of the camera hides the place
BLOCKED = 0.1  # share of the drawings in which a person or a car hides the place


def _spots(
    rng: np.random.Generator, street: Street, low_m: float, high_m: float, per_m: float
) -> NDArray[np.float64]:
    """(N, 2) points on both sides of a street, `per_m` a metre, `low_m` to `high_m` off centre."""
    number = int(rng.poisson(per_m * street.length_m))
    along = rng.uniform(0.0, street.length_m, (number, 1))
    left = rng.uniform(low_m, high_m, (number, 1)) * rng.choice([-1.0, 1.0], (number, 1))
    return street.start + along * street.along + left * street.left


def draw_passers_by(rng: np.random.Generator, world: World, pose: Pose) -> list[Thing]:
    """People and cars that a camera meets, as things for `render`.

    People are at least `PERSON_M` away and cars `CAR_M`. The exception is one drawing in ten,
    which has one of them close ahead, so that occluded places occur, too.
    """
    here = np.array([pose.x_m, pose.y_m])
    ahead = np.array([np.cos(pose.yaw_rad), np.sin(pose.yaw_rad)])
    busy = rng.uniform(0.2, 2.0)
    met: list[tuple[NDArray[np.float64], Painter]] = []
    for street in world.streets:
        people = _spots(rng, street, street.road_m + 0.3, street.half_width_m, busy / 6)
        cars = _spots(rng, street, 0.9, street.road_m - 0.9, busy / 16)
        is_crossing = abs(street.along @ ahead) < 0.7
        paint_car = paint_car_flank if is_crossing else paint_car_end
        kinds = ((people, PERSON_M, paint_person), (cars, CAR_M, paint_car))
        for spots, nearest_m, paint in kinds:
            away = spots - here
            seen = (away @ ahead > nearest_m) & (np.hypot(*away.T) < FARTHEST_M)
            met += [(spot, paint) for spot in spots[seen]]
    if rng.random() < BLOCKED:
        depth_m, paint = ((1.3, paint_person), (3.5, paint_car_end))[int(rng.integers(2))]
        aside = np.array([ahead[1], -ahead[0]]) * rng.uniform(-0.3, 0.3)
        met.append((here + (ahead + aside) * depth_m, paint))
    return [Thing(float(x), float(y), paint(rng)) for (x, y), paint in met]
