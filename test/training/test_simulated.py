import csv

import cv2
import numpy as np
import pytest

from selavpr_ros.simulation import Camera
from selavpr_ros.training.simulated import (
    FARTHEST_SIGMAS,
    HEADING_SIGMA_RAD,
    LATERAL_SIGMA_M,
    SPOT_SPACING_M,
    SimulatedPlaces,
    write_world,
)

SEED = 3


@pytest.fixture(scope='module')
def places():
    return SimulatedPlaces(Camera(width=48, height=48), length_m=60.0, ground_pixels_per_m=8.0)


def test_equal_arguments_give_equal_pixels_and_others_do_not(places):
    image, pose = places.read(SEED, 12.0, visit_seed=1)
    again, pose_again = places.read(SEED, 12.0, visit_seed=1)

    assert (image.shape, image.dtype) == ((48, 48, 3), np.uint8)
    np.testing.assert_array_equal(image, again)
    assert pose == pose_again
    for way_m, visit_seed in ((12.0, 2), (15.0, 1)):
        assert (places.read(SEED, way_m, visit_seed)[0] != image).mean() > 0.5


def test_the_camera_stands_within_the_stated_offsets(places):
    route = places.world(SEED).route
    offsets = []
    for visit_seed in range(40):
        pose, straight = places.read(SEED, 12.0, visit_seed)[1], route.pose_at(12.0)
        aside = np.hypot(pose.x_m - straight.x_m, pose.y_m - straight.y_m)
        offsets.append((aside, abs(pose.yaw_rad - straight.yaw_rad)))

    limits = FARTHEST_SIGMAS * np.array([LATERAL_SIGMA_M, HEADING_SIGMA_RAD])
    assert (np.max(offsets, axis=0) <= limits + 1e-9).all()
    assert (np.max(offsets, axis=0) > 0.5 * limits).all()


def test_the_latest_world_is_kept(places):
    assert places.world(SEED) is places.world(SEED)


def test_a_written_world_has_images_by_visit_and_spot_and_their_poses(tmp_path, places):
    write_world(tmp_path, places, SEED, visits=2)

    spots_m = places.spots_m(SEED)
    with (tmp_path / 'poses.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert np.diff(spots_m).tolist() == [SPOT_SPACING_M] * (len(spots_m) - 1)
    assert len(rows) == 2 * len(spots_m)
    assert [row['image'] for row in rows] == sorted(path.name for path in tmp_path.glob('*.jpg'))
    image, pose = places.read(SEED, spots_m[4], visit_seed=1)
    row = rows[len(spots_m) + 4]
    assert row['image'] == 'visit_01_0004.jpg'
    assert float(row['x_m']) == pose.x_m
    assert float(row['yaw_rad']) == pose.yaw_rad
    written = cv2.imread(str(tmp_path / row['image']))[..., ::-1]
    assert np.abs(written.astype(int) - image).mean() < 12


def test_a_finished_world_is_left_alone_and_an_unfinished_one_is_finished(tmp_path, places):
    write_world(tmp_path, places, SEED, visits=1)
    first = tmp_path / 'visit_00_0000.jpg'

    first.unlink()
    write_world(tmp_path, places, SEED, visits=1)
    assert not first.exists()

    (tmp_path / 'poses.csv').unlink()
    write_world(tmp_path, places, SEED, visits=1)
    assert first.exists()
