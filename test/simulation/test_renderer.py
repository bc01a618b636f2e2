"""Pictures of hand-made worlds, whose pixels pinhole geometry tells beforehand."""

import numpy as np
import pytest

from selavpr_ros.pose import Pose
from selavpr_ros.simulation import Camera, Light, depth_map, render
from selavpr_ros.simulation.sprites import Sprite, Thing

ORIGIN = Pose.planar(0.0, 0.0, 0.0)
RED, WHITE = (250, 10, 10), (255, 255, 255)
PLAIN = Light(
    sun_strength=0.0, vignette=0.0, noise=0.0, blur_px=0.0, haze_range_m=1e9, contrast=1.0
)


@pytest.fixture
def camera():
    return Camera(width=200, height=160, horizontal_fov_rad=np.pi / 2, height_m=1.2)


def is_red(image):
    return (image[..., 0] > 200) & (image[..., 1] < 60) & (image[..., 2] < 60)


def test_focal_length_of_a_right_angle(camera):
    assert camera.focal_px == pytest.approx(100.0)
    assert camera.centre_px == (99.5, 79.5)


def test_a_wall_appears_at_the_pixels_where_it_must(camera, make_world, wall_ahead):
    world = make_world([wall_ahead(5.0, 2.0, -1.0, 3.0, RED)])

    seen = is_red(render(world, camera, ORIGIN, PLAIN))

    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    # row = 79.5 - (z - 1.2) * 100 / 5 and column = 99.5 - y * 100 / 5
    assert (rows[0], rows[-1]) == (44, 103)
    assert (columns[0], columns[-1]) == (60, 119)
    assert seen[44:104, 60:120].all()


def test_depth_of_wall_ground_and_sky(camera, make_world, wall_ahead):
    world = make_world([wall_ahead(5.0, 2.0, -1.0, 3.0, RED)])

    depth = depth_map(world, camera, ORIGIN)

    np.testing.assert_allclose(depth[50:100, 70:110], 5.0, rtol=1e-5)
    assert np.isinf(depth[:79, 150]).all()
    np.testing.assert_allclose(depth[159, 100], 1.2 * 100 / 79.5, rtol=1e-5)


def test_colours_of_sky_and_ground(camera, make_world, wall_ahead):
    image = render(make_world([wall_ahead(5.0, 2.0, -1.0, 3.0, RED)]), camera, ORIGIN, PLAIN)

    np.testing.assert_allclose(image[10, 150].astype(int), (40, 90, 215 + 27), atol=8)
    np.testing.assert_allclose(image[150, 100].astype(int), (90, 160, 60), atol=2)


def test_a_wall_is_invisible_from_behind(camera, make_world, wall_ahead):
    turned = wall_ahead(5.0, -1.0, 2.0, 3.0, RED)

    assert not is_red(render(make_world([turned]), camera, ORIGIN, PLAIN)).any()


def test_near_walls_move_more_than_far_ones(camera, make_world, wall_ahead):
    def shift(depth_m):
        world = make_world([wall_ahead(depth_m, 1.0, -1.0, 3.0, RED)])
        middles = [
            np.flatnonzero(is_red(render(world, camera, pose, PLAIN)).any(axis=0)).mean()
            for pose in (ORIGIN, Pose.planar(0.0, 0.5, 0.0))
        ]
        return middles[1] - middles[0]

    assert shift(4.0) == pytest.approx(0.5 * 100 / 4.0, abs=0.6)
    assert shift(10.0) == pytest.approx(0.5 * 100 / 10.0, abs=0.6)


def test_turning_left_moves_the_picture_right(camera, make_world, wall_ahead):
    world = make_world([wall_ahead(5.0, 0.5, -0.5, 3.0, RED)])

    seen = is_red(render(world, camera, Pose.planar(0.0, 0.0, 0.2), PLAIN))

    middle = np.flatnonzero(seen.any(axis=0)).mean()
    assert middle == pytest.approx(99.5 + 100 * np.tan(0.2), abs=0.7)


def test_a_low_wall_hides_only_the_foot_of_a_high_one(camera, make_world, wall_ahead):
    world = make_world(
        [wall_ahead(10.0, 5.0, -5.0, 6.0, WHITE), wall_ahead(4.0, 5.0, -5.0, 2.0, RED)]
    )

    seen = is_red(render(world, camera, ORIGIN, PLAIN))[:, 100]

    edge = 79.5 - (2.0 - 1.2) * 100 / 4.0
    assert not seen[: int(edge)].any()
    assert seen[int(edge) + 1 : 109].all()


def test_a_hanging_sign_leaves_the_view_below_it(camera, make_world, wall_ahead):
    world = make_world([wall_ahead(4.0, 1.0, -1.0, 3.0, RED, bottom_m=2.0)])

    rows = np.flatnonzero(is_red(render(world, camera, ORIGIN, PLAIN))[:, 100])

    assert rows[-1] == int(79.5 - (2.0 - 1.2) * 100 / 4.0)


def test_left_end_of_a_picture_is_left_in_the_image(camera, make_world, wall_ahead):
    wall = wall_ahead(4.0, 2.0, -2.0, 3.0, WHITE)
    wall.picture[:, :32] = RED

    seen = is_red(render(make_world([wall]), camera, ORIGIN, PLAIN))

    assert seen[60, 52:98].all()
    assert not seen[60, 102:].any()


def test_things_are_hidden_by_nearer_walls_only(camera, make_world, wall_ahead):
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[...] = (*RED, 255)
    sprite = Sprite(pixels, width_m=1.0, height_m=1.0)
    wall = wall_ahead(5.0, 2.0, -2.0, 3.0, WHITE)

    before, behind = (
        render(make_world([wall], [Thing(x_m, 0.0, sprite)]), camera, ORIGIN, PLAIN)
        for x_m in (4.0, 6.0)
    )

    rows, columns = np.nonzero(is_red(before))
    assert (columns.min(), columns.max()) == pytest.approx((99.5 - 12.5, 99.5 + 12.5), abs=1.5)
    assert (rows.min(), rows.max()) == pytest.approx((84.5, 109.5), abs=1.5)
    assert not is_red(behind).any()


def test_image_is_rgb_uint8_of_the_camera_size(town):
    image = render(town, Camera(width=101, height=77), town.route.pose_at(5.0))

    assert image.shape == (77, 101, 3)
    assert image.dtype == np.uint8


def test_views_are_full_of_detail_everywhere_on_the_route(town, small_camera):
    for way_m in np.arange(0.0, town.route.length_m, 6.0):
        image = render(town, small_camera, town.route.pose_at(way_m), PLAIN)
        assert image.astype(int).std() > 25
        assert (image.max(axis=2) == 0).mean() < 0.02
