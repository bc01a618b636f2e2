"""The filter over places, against all states written out."""

from __future__ import annotations

import numpy as np
import pytest

from selavpr_ros import place_filter
from selavpr_ros.keyframe import KeyframeId
from selavpr_ros.place_filter import ENTER, LEAVE, MISSED_RATIO, PlaceFilter, _kernel

STATES = 120  # keyframes 1 to 120: the robot never comes near the last


def codes(filter_: PlaceFilter, numbers) -> np.ndarray:
    return np.array([filter_.code(KeyframeId(1, number)) for number in numbers], np.int64)


def views(seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Retrieved keyframes and their ratios; the robot passes 20, 21, 22 ..."""
    random, found = np.random.default_rng(seed), []
    for view in range(8):
        numbers = np.unique(np.append(random.integers(15, 45, 6), 20 + view))
        ratios = random.uniform(0.1, 2.0, len(numbers))
        ratios[numbers == 20 + view] = 30.0
        found.append((numbers, ratios))
    return found


def run(filter_: PlaceFilter, seen) -> list[place_filter.Belief]:
    return [filter_.update(codes(filter_, numbers), ratios, STATES, 1.0)
            for numbers, ratios in seen]


def dense(seen) -> tuple[np.ndarray, np.ndarray]:
    """Beliefs (views, STATES + 1), forward and smoothed; the last state is somewhere new."""
    offsets, weights = _kernel(1.0)
    steps, forward = [], []
    belief = np.zeros(STATES + 1)
    belief[-1] = 1.0
    for numbers, ratios in seen:
        move = np.zeros((STATES + 1, STATES + 1))
        for state in range(STATES):
            for offset, weight in zip(offsets, weights, strict=True):
                if 0 <= state + offset < STATES:
                    move[state, state + offset] = (1.0 - LEAVE) * weight
            move[state, -1] = LEAVE
        move[-1, -1] = 1.0
        enter = np.eye(STATES + 1)
        enter[-1, numbers - 1] = ENTER / max(STATES, place_filter.LEAST_PLACES)
        enter[-1, -1] = 1.0 - enter[-1, numbers - 1].sum()
        likelihood = np.full(STATES + 1, MISSED_RATIO)
        likelihood[numbers - 1], likelihood[-1] = ratios, 1.0
        step = move @ enter * likelihood
        belief = belief @ step
        belief /= belief.sum()
        steps.append(step)
        forward.append(belief)
    after, smoothed = np.ones(STATES + 1), []
    for belief, step in zip(forward[::-1], steps[::-1], strict=True):
        product = belief * after
        smoothed.append(product / product.sum())
        after = step @ after
    return np.array(forward), np.array(smoothed[::-1])


def spread_out(filter_: PlaceFilter, belief: place_filter.Belief) -> np.ndarray:
    found = np.zeros(STATES + 1)
    for code, probability in zip(belief.codes.tolist(), belief.probabilities, strict=True):
        found[filter_.keyframe_id(code).keyframe_id - 1] = probability
    found[-1] = belief.new
    return found


def test_it_is_the_forward_backward_algorithm(monkeypatch):
    monkeypatch.setattr(place_filter, 'LEAST_BELIEF', 0.0)
    filter_, seen = PlaceFilter(), views()
    forward, smoothed = dense(seen)
    for belief, expected in zip(run(filter_, seen), forward, strict=True):
        np.testing.assert_allclose(spread_out(filter_, belief), expected, atol=1e-3)
    for belief, expected in zip(filter_.look_again(), smoothed, strict=True):
        np.testing.assert_allclose(spread_out(filter_, belief), expected, atol=1e-3)


def test_views_in_order_make_it_sure_and_shuffled_ones_do_not():
    filter_ = PlaceFilter()
    last = run(filter_, [(np.array([20 + view]), np.array([40.0])) for view in range(5)])[-1]
    assert last.new < 0.02
    jumping = [(np.array([number]), np.array([40.0])) for number in (5, 40, 15, 55, 28)]
    assert run(PlaceFilter(), jumping)[-1].new > 0.9


def test_both_directions_count():
    back = run(PlaceFilter(), [(np.array([30 - view]), np.array([40.0])) for view in range(5)])
    assert back[-1].new < 0.02


def test_a_robot_that_leaves_is_somewhere_new():
    filter_ = PlaceFilter()
    run(filter_, [(np.array([20 + view]), np.array([40.0])) for view in range(6)])
    gone = run(filter_, [(np.array([50]), np.array([0.2]))] * 6)[-1]
    assert gone.new > 0.95


def test_nothing_retrieved_is_no_error_and_no_evidence():
    filter_ = PlaceFilter()
    belief = filter_.update(np.empty(0, np.int64), np.empty(0), 0, 1.0)
    assert (len(belief.codes), belief.new) == (0, pytest.approx(1.0))
    assert len(filter_.look_again()) == 1


def test_what_is_impossible_gets_nothing():
    filter_ = PlaceFilter()
    belief = run(filter_, [(np.array([7, 9]), np.array([0.0, 10.0]))])[-1]
    assert [filter_.keyframe_id(code).keyframe_id for code in belief.codes.tolist()] == [9]


def test_it_remembers_only_so_many_views_and_states():
    filter_ = PlaceFilter(look_back=3)
    for view in range(10):
        numbers = np.arange(1, 2000, 3) + view
        filter_.update(codes(filter_, numbers), np.full(len(numbers), 5.0), 10_000, 1.0)
        assert len(filter_.belief.codes) <= place_filter.MOST_STATES
    assert len(filter_.look_again()) == 4
    filter_.reset()
    assert filter_.look_again() == []


def test_keyframes_of_sessions_and_robots_keep_apart():
    filter_ = PlaceFilter()
    ids = [KeyframeId(1, 5), KeyframeId(2, 5), KeyframeId(1, 5, robot_id=3), KeyframeId(1, 6)]
    numbers = [filter_.code(each) for each in ids]
    assert [filter_.keyframe_id(number) for number in numbers] == ids
    assert numbers[3] == numbers[0] + 1
    assert min(abs(numbers[0] - other) for other in numbers[1:3]) > 10**9
