import cv2
import numpy as np
import pytest

from selavpr_ros.errors import VprError
from selavpr_ros.simulation import DriveSettings, drive
from selavpr_ros.simulation.picture import draw_overview, save_picture, visits


def test_overview_shows_both_laps_of_nearby_places(tmp_path, town, small_camera, two_laps):
    picture = draw_overview(town, small_camera, two_laps)
    save_picture(tmp_path / 'docs' / 'overview.png', picture)

    written = cv2.imread(str(tmp_path / 'docs' / 'overview.png'))[..., ::-1]
    np.testing.assert_array_equal(written, picture)
    for first, second in visits(two_laps):
        apart = two_laps.true_poses[first, :2] - two_laps.true_poses[second, :2]
        assert np.hypot(*apart) < 1.5


def test_one_lap_has_nothing_to_compare(town):
    trajectory = drive(town.route, DriveSettings(laps=1, speed_m_per_s=20.0))

    with pytest.raises(VprError, match='--laps 2'):
        visits(trajectory)


def test_an_unknown_picture_format_is_named(tmp_path):
    with pytest.raises(VprError, match='overview.xyz'):
        save_picture(tmp_path / 'overview.xyz', np.zeros((4, 4, 3), np.uint8))
