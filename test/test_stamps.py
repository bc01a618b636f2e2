"""Stamps of two topics that do not meet."""

from __future__ import annotations

import pytest

from selavpr_ros.stamps import Span, why_apart

SECOND = 1_000_000_000
TODAY = 1_795_000_000


def span(first_s: float, last_s: float) -> Span:
    return Span(round(first_s * SECOND), round(last_s * SECOND))


def test_spans_that_meet_need_no_reason():
    assert why_apart(span(10, 20), span(20, 30), 'odometry') == ''
    assert why_apart(span(10, 20), span(5, 30), 'odometry') == ''


@pytest.mark.parametrize(('others', 'reason'), [
    (span(10, 20), 'the time of day, the other simulated time'),
    (span(TODAY + 7200, TODAY + 7210), 'they differ by 2 h, so that one seems to be local time'),
    (span(TODAY - 19800, TODAY - 19790), 'they differ by 5.5 h'),
    (span(TODAY + 45, TODAY + 55), 'two computers whose clocks differ'),
    (span(TODAY + 9e6, TODAY + 9e6), 'two recordings')])
def test_spans_apart_are_told_with_both_and_the_likely_reason(others, reason):
    told = why_apart(span(TODAY, TODAY + 10), others, 'odometry')
    assert told.startswith(f'the images are from {TODAY}.000 to {TODAY + 10}.000 s, the odometry '
                           f'from {others}: ')
    assert reason in told


def test_stamps_that_are_all_zero():
    assert why_apart(span(0, 0), span(1, 2), 'truth') == (
        'the stamps of the images are all 0: the driver sets no stamps')
    assert 'of the truth are all 0' in why_apart(span(1, 2), span(0, 0), 'truth')
