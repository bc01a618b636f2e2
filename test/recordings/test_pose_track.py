from __future__ import annotations

from selavpr_ros.pose import Pose
from selavpr_ros.recordings.clocks import Span
from selavpr_ros.recordings.pose_track import PoseTrack

SECOND = 1_000_000_000


def _track(*stamps_and_x: tuple[float, float], max_gap_s: float = 2.0) -> PoseTrack:
    return PoseTrack([(round(s * SECOND), Pose.planar(x, 0, 0)) for s, x in stamps_and_x],
                     max_gap_s)


def _x(track: PoseTrack, second: float) -> float | None:
    pose = track.at(round(second * SECOND))
    return None if pose is None else float(pose.translation_m[0])


def test_between_two_poses():
    assert _x(_track((10, 0), (11, 4)), 10.25) == 1.0


def test_outside_and_in_holes_nothing_is_known():
    track = _track((10, 0), (11, 1), (20, 2), (21, 3))
    assert [_x(track, second) for second in (9.9, 15, 21.1)] == [None, None, None]


def test_without_poses():
    assert PoseTrack().at(5) is None


def test_one_pose():
    track = _track((10, 3))
    assert (_x(track, 10), _x(track, 10.1)) == (3.0, None)


def test_a_pose_that_came_late_is_sorted_in():
    track = _track((10, 0), (12, 2), (11.5, 1.5), (13, 3))
    assert [_x(track, second) for second in (10.5, 11.75, 12.5)] == [0.5, 1.75, 2.5]


def test_a_time_line_that_starts_again():
    """Both stretches are known; where they overlap, the later one counts."""
    track = _track((10, 0), (12, 2), (14, 4), (11, 100), (12, 102))
    assert [_x(track, second) for second in (10.5, 11.5, 13)] == [0.5, 101.0, 3.0]


def test_a_long_recording_is_kept_whole():
    track = _track(*((i, i) for i in range(30_000)))
    assert _x(track, 0.5) == 0.5
    assert _x(track, 29_998.5) == 29_998.5


def test_why_no_image_has_a_pose():
    images = Span(90 * SECOND, 95 * SECOND)
    assert '0.000 to 1.000 s' in _track((1, 0), (0, 1)).why_none(images, '/odom')
    # Far from the last one, poses are forgotten; they are told all the same.
    assert '0.000 to 9999999999.000 s' in _track((0, 0), (9999999999, 1)).why_none(images, '/odom')
    assert PoseTrack().why_none(images, '/odom') == '/odom holds no pose'


def test_slow_odometry_is_interpolated():
    track = _track(*((i, i) for i in range(10)), max_gap_s=0.0)
    assert _x(track, 5.5) == 5.5
    assert _x(_track(*((i, i) for i in range(10)), max_gap_s=0.5), 5.5) is None
