from __future__ import annotations

import math

import pytest

from selavpr_ros.errors import GroundTruthError
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import PairTruth, PoseTruth, SamePlace, read_tum

SECOND = 1_000_000_000


def _truth(*poses: tuple[float, float, float], **limits: float) -> PoseTruth:
    stamped = [(i * SECOND, Pose.planar(x, y, math.radians(yaw)))
               for i, (x, y, yaw) in enumerate(poses)]
    return PoseTruth(stamped, **limits)


def test_within_the_radius():
    truth = _truth((0, 0, 0), (3, 3.99, 0), (3, 4, 0), (3, 4.01, 0))
    assert truth.same_places(0, [SECOND, 2 * SECOND, 3 * SECOND]) == [True, True, False]


def test_turned_too_far():
    truth = _truth((0, 0, 170), (0, 0, -146), (0, 0, -144), (0, 0, -10))
    stamps = [SECOND, 2 * SECOND, 3 * SECOND]
    assert truth.same_places(0, stamps) == [True, False, False]
    any_heading = _truth((0, 0, 170), (0, 0, -10), heading_rad=math.pi)
    assert any_heading.is_same_place(0, SECOND) is True


def test_what_is_not_known():
    truth = _truth((0, 0, 0), (0, 0, 0))
    assert truth.same_places(0, [SECOND, 5 * SECOND]) == [True, None]
    assert truth.same_places(5 * SECOND, [0, SECOND]) == [None, None]
    assert PoseTruth([]).is_same_place(0, 0) is None


def test_nothing_to_compare_with():
    assert _truth((0, 0, 0)).same_places(0, []) == []


def test_poses_are_interpolated():
    truth = _truth((0, 0, 0), (10, 0, 0), radius_m=1.0)
    assert truth.pose_at(SECOND // 2).translation_m[0] == 5.0
    assert truth.is_same_place(SECOND // 2, 6 * SECOND // 10) is True
    assert truth.is_same_place(SECOND // 2, 7 * SECOND // 10) is False


def test_the_limits_are_told_in_words():
    assert _truth(radius_m=2.5, heading_rad=math.pi).same_place == SamePlace(2.5, 180.0)


def test_marked_pairs_have_no_order():
    truth = PairTruth([(30, 10), (40, 11)])
    assert truth.same_places(10, [30, 40, 11]) == [True, False, False]
    assert truth.is_same_place(40, 11) is True
    assert truth.pose_at(10) is None


def test_a_tum_file(tmp_path):
    path = tmp_path / 'truth.tum'
    path.write_text('# stamp tx ty tz qx qy qz qw\n'
                    '1305031098.665900001 1 2 3 0 0 0 1\n\n'
                    '1305031099.5,4,5,6,0,0,0.7071068,0.7071068\n')
    (first, a), (second, b) = read_tum(path)
    assert first == 1305031098665900001
    assert second == 1305031099500000000
    assert a.translation_m.tolist() == [1, 2, 3]
    assert b.yaw_rad == pytest.approx(math.pi / 2)


@pytest.mark.parametrize(('line', 'reason'), [
    ('1.0 1 2 3', '4 numbers'),
    ('1.0 1 2 3 0 0 0 zero', 'could not convert'),
    ('now 1 2 3 0 0 0 1', ''),
    ('inf 1 2 3 0 0 0 1', ''),
    ('1.0 nan 2 3 0 0 0 1', 'not finite'),
    ('1.0 1 2 3 0 0 0 0', 'norm'),
])
def test_a_broken_line_is_named(tmp_path, line, reason):
    path = tmp_path / 'truth.tum'
    path.write_text(f'# comment\n{line}\n')
    with pytest.raises(GroundTruthError, match=f'truth.tum, line 2: .*{reason}.*; TUM'):
        read_tum(path)


def test_no_file(tmp_path):
    with pytest.raises(GroundTruthError, match='gone.tum cannot be read'):
        read_tum(tmp_path / 'gone.tum')


@pytest.mark.parametrize(('same_place', 'told'), [
    (SamePlace(5.0), 'within 5 m'), (SamePlace(2.5, 45.0), 'within 2.5 m and 45 deg'),
    (SamePlace(frames=2), 'within 2 frames'), (SamePlace(is_marked=True), 'marked pairs'),
    (SamePlace(is_marked=True, excluded=9), 'marked pairs, earlier than the 9 newest images'),
    (SamePlace(5.0, excluded=9), 'within 5 m, 9 images on either side excluded'),
    (SamePlace(5.0, excluded=0), 'within 5 m, the query itself excluded'),
])
def test_what_counts_as_the_same_place_is_told(same_place, told):
    assert str(same_place) == told


@pytest.mark.parametrize('text', ['', '\n', '# stamp tx ty tz qx qy qz qw\n'])
def test_a_file_without_a_pose(tmp_path, text):
    path = tmp_path / 'truth.tum'
    path.write_text(text)
    with pytest.raises(GroundTruthError, match='truth.tum holds no pose; TUM'):
        read_tum(path)


def test_why_no_image_can_be_judged():
    truth = _truth((0, 0, 0), (3, 0, 0))
    assert truth.why_unknown([SECOND // 2, 90 * SECOND], 'a.tum') == ''
    assert truth.why_unknown([], 'a.tum') == ''
    assert truth.why_unknown([90 * SECOND, 95 * SECOND], 'a.tum').startswith(
        'no image has a pose of a.tum: the images are from 90.000 to 95.000 s, the poses from '
        '0.000 to 1.000 s; ')
    assert PoseTruth([]).why_unknown([0], 'a.tum') == 'a.tum holds no pose'
    assert PairTruth([(1, 2)]).why_unknown([9], 'loops.csv') == ''
