"""The filter over places, against all states written out."""

from __future__ import annotations

import numpy as np
import pytest

from selavpr_ros.decision import place_filter
from selavpr_ros.decision.place_filter import (
    ENTER,
    LEAD,
    LEAVE,
    MISSED_RATIO,
    TURN,
    PlaceFilter,
    _kernel,
)
from selavpr_ros.maps.keyframe import KeyframeId

# Keyframes 1 to 60 of two sessions, and what lies before: the robot never comes near the last of
# either.
SESSION = LEAD + 60
STATES = 2 * SESSION


def state_id(state: int) -> KeyframeId:
    return KeyframeId(1 + state // SESSION, 1 - LEAD + state % SESSION)


def codes(filter_: PlaceFilter, numbers) -> np.ndarray:
    return np.array([filter_.code(KeyframeId(1, number)) for number in numbers], np.int64)


def views(first: int, seed: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Retrieved states, their ratios, and the motion; the robot passes first, first + 1, ..."""
    random, found = np.random.default_rng(seed), []
    retrievable = [*range(LEAD, LEAD + 25), *range(SESSION + LEAD, SESSION + LEAD + 25)]
    for view in range(8):
        here = first + view
        states = np.unique([*random.choice(retrievable, 6), here])
        ratios = random.uniform(0.1, 2.0, len(states))
        ratios[random.random(len(states)) < 0.2] = 0.0  # odometry says no
        ratios[states == here] = 30.0
        found.append((states, ratios, float(random.uniform(0.0, 4.0))))
    return found


def run_states(filter_: PlaceFilter, seen) -> list[place_filter.Belief]:
    return [filter_.update(np.array([filter_.code(state_id(s)) for s in states.tolist()]), ratios,
                           STATES, steps) for states, ratios, steps in seen]


def run(filter_: PlaceFilter, seen) -> list[place_filter.Belief]:
    return [filter_.update(codes(filter_, numbers), ratios, STATES, 1.0)
            for numbers, ratios in seen]


def driven(offsets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(2 STATES, 2 STATES) motion along the way; the second half drives backwards."""
    move = np.zeros((2 * STATES, 2 * STATES))
    for state in range(2 * STATES):
        for turned, share in ((False, 1.0 - TURN), (True, TURN)):
            backward = (state >= STATES) != turned
            for offset, weight in zip(offsets.tolist(), weights.tolist(), strict=True):
                place = state % STATES + (-offset if backward else offset)
                if place >= 0 and place // SESSION == state % STATES // SESSION:
                    move[state, place + STATES * backward] += share * weight
    return move


def dense(seen) -> tuple[np.ndarray, np.ndarray]:
    """Beliefs (views, STATES + 1), forward and smoothed; the last state is somewhere new."""
    steps, forward = [], []
    belief = np.zeros(2 * STATES + 1)
    belief[-1] = 1.0
    for retrieved, ratios, passed in seen:
        for first in np.flatnonzero(retrieved % SESSION == LEAD).tolist():
            before = np.arange(retrieved[first] - LEAD, retrieved[first])
            retrieved = np.concatenate([retrieved, before])
            ratios = np.concatenate([ratios, np.full(LEAD, ratios[first])])
        both = np.concatenate([retrieved, retrieved + STATES])
        move = np.zeros((2 * STATES + 1, 2 * STATES + 1))
        stay = (1.0 - LEAVE)**max(passed, 1.0)
        move[:-1, :-1] = stay * driven(*_kernel(passed))
        move[:-1, -1] = 1.0 - stay
        move[-1, -1] = 1.0
        enter = np.eye(2 * STATES + 1)
        enter[-1, both] = 0.5 * ENTER / max(STATES, place_filter.LEAST_PLACES)
        enter[-1, -1] = 1.0 - enter[-1, both].sum()
        likelihood = np.full(2 * STATES + 1, MISSED_RATIO)
        likelihood[both], likelihood[-1] = np.concatenate([ratios, ratios]), 1.0
        step = move @ enter * likelihood
        belief = belief @ step
        belief /= belief.sum()
        steps.append(step)
        forward.append(belief)
    after, smoothed = np.ones(2 * STATES + 1), []
    for belief, step in zip(forward[::-1], steps[::-1], strict=True):
        product = belief * after
        smoothed.append(product / product.sum())
        after = step @ after
    return tuple(np.column_stack([found[:, :STATES] + found[:, STATES:-1], found[:, -1]])
                 for found in (np.array(forward), np.array(smoothed[::-1])))


def spread_out(filter_: PlaceFilter, belief: place_filter.Belief) -> np.ndarray:
    """(STATES + 1,) probabilities of all states, both directions together."""
    found = np.zeros(STATES + 1)
    for code, probability in zip(belief.codes.tolist(), belief.probabilities, strict=True):
        keyframe_id = filter_.keyframe_id(code)
        found[SESSION * (keyframe_id.session_id - 1) + LEAD - 1 + keyframe_id.keyframe_id] += (
            probability)
    found[-1] = belief.new
    return found


def test_the_kernel_goes_ahead_and_sums_to_1():
    for steps in (0.0, 0.4, 1.0, 3.0, 6.0):
        offsets, weights = _kernel(steps)
        assert offsets[0] == -1
        assert weights.sum() == pytest.approx(1.0)
        assert offsets[weights.argmax()] == round(steps)
    np.testing.assert_array_equal(_kernel(50.0)[0], _kernel(place_filter.MOST_STEPS)[0])


@pytest.mark.parametrize(('first', 'seed'), [
    (LEAD, 0), (LEAD + 10, 1), (SESSION + LEAD, 2), (SESSION + LEAD + 10, 3)])
def test_it_is_the_forward_backward_algorithm(monkeypatch, first, seed):
    monkeypatch.setattr(place_filter, 'LEAST_BELIEF', 0.0)
    monkeypatch.setattr(place_filter, 'MOST_STATES', 10 * STATES)
    filter_, seen = PlaceFilter(), views(first, seed)
    for state in (0, SESSION):  # the first session's code comes first
        filter_.code(state_id(state))
    forward, smoothed = dense(seen)
    beliefs = run_states(filter_, seen)
    assert forward[-1, first + 7] > 0.1
    assert np.abs(forward - smoothed).max() > 0.1
    for belief, expected in zip(beliefs, forward, strict=True):
        np.testing.assert_allclose(spread_out(filter_, belief), expected, atol=1e-9)
    for belief, expected in zip(filter_.look_again(), smoothed, strict=True):
        np.testing.assert_allclose(spread_out(filter_, belief), expected, atol=1e-9)


def test_states_that_are_forgotten_change_next_to_nothing():
    filter_, seen = PlaceFilter(), views(10, 4)
    forward, smoothed = dense(seen)
    for belief, expected in zip(run_states(filter_, seen), forward, strict=True):
        np.testing.assert_allclose(spread_out(filter_, belief), expected, atol=1e-3)
    for belief, expected in zip(filter_.look_again(), smoothed, strict=True):
        np.testing.assert_allclose(spread_out(filter_, belief), expected, atol=1e-3)


def test_the_last_views_are_smoothed_as_if_all_were_remembered():
    short, long = PlaceFilter(look_back=3), PlaceFilter()
    for filter_ in (short, long):
        run_states(filter_, views(10, 5))
    for one, other in zip(short.look_again(), long.look_again()[-4:], strict=True):
        np.testing.assert_allclose(spread_out(short, one), spread_out(long, other), atol=1e-12)


def test_the_newest_view_has_nothing_after_it():
    filter_ = PlaceFilter()
    newest = run_states(filter_, views(10, 6))[-1]
    again = filter_.look_again()[-1]
    np.testing.assert_allclose(again.probabilities, newest.probabilities)
    assert again.new == pytest.approx(newest.new)


def test_a_first_view_by_hand():
    filter_ = PlaceFilter()
    belief = filter_.update(codes(filter_, [7, 9]), np.array([20.0, 4.0]), 50, 1.0)
    entered = ENTER / 100  # a map of 50 is taken to have 100 places
    # In either direction alike.
    masses = np.array([2.0 * entered, 10.0 * entered, 10.0 * entered, 2.0 * entered,
                       1.0 - 2.0 * entered])
    masses /= masses.sum()
    np.testing.assert_allclose([*belief.probabilities, belief.new], masses)
    numbers = [filter_.keyframe_id(code).keyframe_id for code in belief.codes.tolist()]
    assert numbers == [9, 7, 7, 9]
    assert belief.states[0] < 0 < belief.states[-1]


def test_views_in_order_make_it_sure_and_shuffled_ones_do_not():
    filter_ = PlaceFilter()
    last = run(filter_, [(np.array([20 + view]), np.array([40.0])) for view in range(5)])[-1]
    assert last.new < 0.02
    jumping = [(np.array([number]), np.array([40.0])) for number in (5, 40, 15, 55, 28)]
    assert run(PlaceFilter(), jumping)[-1].new > 0.9


def test_both_directions_count():
    back = run(PlaceFilter(), [(np.array([30 - view]), np.array([40.0])) for view in range(5)])
    assert back[-1].new < 0.02


def test_a_robot_that_comes_towards_the_first_keyframe_need_not_come_upon_it():
    filter_ = PlaceFilter()
    run(filter_, [(np.array([1, 2]), np.array([8.0, 0.5]))] * 3)
    belief = run(filter_, [(np.array([1 + view]), np.array([8.0])) for view in range(5)])[-1]
    assert belief.new < 0.02
    before = filter_.look_again()[1]
    numbers = np.array([filter_.keyframe_id(c).keyframe_id for c in before.codes.tolist()])
    assert before.probabilities[(numbers < 1) & (before.states > 0)].sum() > 0.5


def test_what_is_new_stays_a_probability_in_the_smallest_of_maps(monkeypatch):
    monkeypatch.setattr(place_filter, 'ENTER', 0.9)
    monkeypatch.setattr(place_filter, 'LEAST_PLACES', 1)
    filter_ = PlaceFilter()
    for _ in range(3):
        belief = filter_.update(codes(filter_, [1]), np.array([0.3]), 1, 1.0)
        assert 0.0 < belief.new < 1.0
        assert belief.new + belief.probabilities.sum() == pytest.approx(1.0)


def test_a_robot_that_leaves_is_somewhere_new():
    filter_ = PlaceFilter()
    run(filter_, [(np.array([20 + view]), np.array([40.0])) for view in range(6)])
    gone = run(filter_, [(np.array([50]), np.array([0.2]))] * 6)[-1]
    assert gone.new > 0.95


def test_a_long_way_that_nobody_saw_says_nothing_of_where_it_began():
    filter_ = PlaceFilter()
    before = run(filter_, [(np.array([20 + view]), np.array([40.0])) for view in range(5)])[-1]
    for _ in range(4):  # it comes out elsewhere
        filter_.update(codes(filter_, [50]), np.array([0.2]), STATES, 200.0)
    assert filter_.belief.new > 0.95
    assert filter_.look_again()[4].new == pytest.approx(before.new, abs=0.01)


def test_nothing_retrieved_is_no_error_and_no_evidence():
    filter_ = PlaceFilter()
    belief = filter_.update(np.empty(0, np.int64), np.empty(0), 0, 1.0)
    assert (len(belief.codes), belief.new) == (0, pytest.approx(1.0))
    assert len(filter_.look_again()) == 1


def test_what_is_impossible_gets_nothing():
    filter_ = PlaceFilter()
    belief = run(filter_, [(np.array([7, 9]), np.array([0.0, 10.0]))])[-1]
    assert {filter_.keyframe_id(code).keyframe_id for code in belief.codes.tolist()} == {9}


def test_a_robot_that_wanders_to_and_fro_makes_it_less_sure_than_one_that_goes_on():
    on = [(np.array([20 + view]), np.array([10.0])) for view in range(8)]
    to_and_fro = [(np.array([number]), np.array([10.0]))
                  for number in (20, 22, 20, 23, 21, 23, 20, 22)]
    assert run(PlaceFilter(), on)[-1].new < 0.05 < run(PlaceFilter(), to_and_fro)[-1].new


def test_most_of_what_is_new_was_so_before_unless_the_robot_left_the_known_way():
    filter_ = PlaceFilter()
    assert filter_.stays_new == 1.0
    run(filter_, [(np.array([20 + view]), np.array([40.0])) for view in range(8)])
    assert filter_.stays_new < 0.2


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


def test_a_known_place_is_found_in_a_map_of_a_hundred_thousand_keyframes():
    filter_ = PlaceFilter()
    for view in range(12):
        numbers = np.array([500 + view, 40_000 - 7 * view, 90_000 + 11 * view])
        belief = filter_.update(codes(filter_, numbers), np.array([15.0, 2.0, 2.0]), 100_000, 1.0)
    assert belief.new < 0.02
