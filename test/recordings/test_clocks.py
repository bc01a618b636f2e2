from __future__ import annotations

import re

import pytest

from selavpr_ros.recordings.clocks import Span, describe_gap, likely_reason, why_apart

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
IMAGES = Span(START, START + 60 * SECOND)


def _moved(seconds: float) -> Span:
    by_ns = round(seconds * SECOND)
    return Span(IMAGES.first_ns + by_ns, IMAGES.last_ns + by_ns)


@pytest.mark.parametrize(('poses', 'words'), [
    (Span(START * 10**9, (START + SECOND) * 10**9), 'in nanoseconds: divide them by 1000000000'),
    (Span(START * 10**6, (START + SECOND) * 10**6), 'in microseconds: divide them by 1000000'),
    (Span(START * 1000, (START + SECOND) * 1000), 'in milliseconds: divide them by 1000'),
    (Span(0, 60 * SECOND), 'the poses count from a start, not from 1970'),
    (_moved(7200), r'the clocks are \+2.0 h apart: one of them seems to be in a local time'),
    (_moved(-19790), r'the clocks are -5.5 h apart'),
    (_moved(86400 * 3), 'of two recordings, or of two computers'),
    (_moved(100), 'of two recordings, or of two computers'),
])
def test_the_likely_reason(poses, words):
    assert not poses.meets(IMAGES)
    assert re.search(words, likely_reason(IMAGES, poses))


def test_images_of_a_simulation():
    assert 'the images count from a start' in likely_reason(Span(0, 60 * SECOND), IMAGES)
    assert 'two recordings' in likely_reason(
        Span(0, 60 * SECOND), Span(90 * SECOND, 91 * SECOND))
    assert 'in milliseconds' in likely_reason(Span(0, 60 * SECOND), Span(0, 70_000 * SECOND))


def test_a_gap_names_both_times():
    assert describe_gap(IMAGES, Span(0, 90 * SECOND), '/odom', 0.5) == (
        'no image has a pose of /odom: the images are from 1700000000.000 to 1700000060.000 s, '
        'the poses from 0.000 to 90.000 s; the poses count from a start, not from 1970: add the '
        'time of that start to their stamps, or let both go by one clock (use_sim_time)')
    assert describe_gap(IMAGES, _moved(30), '/odom', 0.5).endswith(
        'to 1700000090.000 s; where the images are, the poses are more than 0.5 s apart')
    assert describe_gap(IMAGES, _moved(30), '/odom', 0.0).endswith('too far apart, or they jump')
    assert describe_gap(IMAGES, None, '/odom', 0.5) == '/odom holds no pose'


def test_two_topics_that_meet_need_no_reason():
    assert why_apart(IMAGES, _moved(60), 'odometry') == ''
    assert why_apart(IMAGES, _moved(61), 'odometry').startswith(
        f'the images are from {IMAGES}, the odometry from {_moved(61)}; they are of two rec')


def test_stamps_that_are_all_zero():
    assert why_apart(Span(0, 0), IMAGES, 'odometry') == (
        'the stamps of the images are all 0: the driver sets no stamps')
    assert 'of the odometry are all 0' in why_apart(IMAGES, Span(0, 0), 'odometry')


def test_a_span_is_of_stamps_in_any_order():
    assert Span.of([5, 3, 9]) == Span(3, 9)
    assert Span.of([]) is None
    assert Span(3, 9).meets(Span(9, 12))
    assert not Span(3, 9).meets(Span(10, 12))
