import numpy as np
import pytest

from selavpr_ros.errors import VprError
from selavpr_ros.simulation import World, render
from selavpr_ros.simulation.streets import distance_to

SMALL = {'length_m': 60.0, 'ground_pixels_per_m': 8.0}


def test_same_seed_gives_the_same_pixels(small_camera):
    first, second = (World.generate(seed=3, **SMALL) for _ in range(2))

    for way_m in (0.0, 17.0, 40.0):
        pose = first.route.pose_at(way_m)
        images = [
            render(world, small_camera, pose, rng=np.random.default_rng(1))
            for world in (first, second)
        ]
        np.testing.assert_array_equal(*images)


def test_another_seed_is_another_town(small_camera):
    images = []
    for seed in (3, 4):
        world = World.generate(seed=seed, **SMALL)
        images.append(render(world, small_camera, world.route.pose_at(10.0)).astype(int))

    assert np.abs(images[0] - images[1]).mean() > 20


def test_no_house_stands_on_a_street(town):
    for block in town.blocks:
        is_house = block.lot.width_m > 2.0 and block.height_m > 2.5
        for street in town.streets:
            nearest = distance_to(street, block.lot.samples).min()
            assert nearest > (street.half_width_m - 0.1 if is_house else 1.5)


def test_nothing_stands_in_the_way_of_the_robot(town):
    for thing in town.things:
        spot = np.array([thing.x_m, thing.y_m])
        assert np.hypot(*(town.route.points - spot).T).min() > 1.2


@pytest.mark.parametrize('length_m', [20.0, 3000.0, float('nan')])
def test_a_loop_too_short_or_too_long_is_refused(length_m):
    with pytest.raises(VprError, match=f'a loop of 60 to 800 m, not of {length_m:g} m'):
        World.generate(length_m=length_m)


def test_longer_loops_have_the_asked_length_and_more_corners():
    from selavpr_ros.simulation.route import Route
    from selavpr_ros.simulation.streets import plan_streets

    for length_m in (60.0, 160.0, 250.0):
        streets = plan_streets(np.random.default_rng(5), length_m)
        route = Route.along(streets)
        assert route.length_m == pytest.approx(length_m, rel=0.06)
        assert len(streets) >= max(4, length_m // 25)
