"""Candidates and their verdicts: every reason in a case that only it explains."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from selavpr_ros.decision.closures import ClosureDecision, Whereabouts
from selavpr_ros.decision.gates import Decision, name_outcome
from selavpr_ros.decision.unrelated import Unrelated
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, SessionId
from selavpr_ros.matching.evidence import Match
from selavpr_ros.matching.geometry import FUNDAMENTAL, Geometry
from selavpr_ros.pose import Pose
from selavpr_ros.settings import GateSettings

GATES = GateSettings()
KEYFRAMES = 200
SAME, ELSEWHERE = 0.3, 0.02  # overlaps


class World:
    """A map of keyframes in one session, and the decision on it."""

    def __init__(self, *, poses=None, inliers: int | None = None) -> None:
        self.keyframes = {
            number: Keyframe(KeyframeId(1, number), number, np.ones(1, np.float32),
                             poses(number) if poses else None, float(number))
            for number in range(1, KEYFRAMES + 1)}
        self.inliers = inliers
        self.verified = []
        self.decision = ClosureDecision(
            lambda wanted: self.keyframes.get(wanted.keyframe_id), self._verify)
        self.random = np.random.default_rng(0)
        self.asked = 0

    def _verify(self, query, match):
        self.verified.append(query)
        if self.inliers is None:
            return match
        return replace(match, geometry=Geometry(
            FUNDAMENTAL, np.arange(match.local_matches) < self.inliers, 1.0))

    def match(self, number: int, overlap: float) -> Match:
        return Match(self.keyframes[number], 0, 0.9, 100, 0.3, overlap=overlap)

    def see(self, overlaps, *, is_new_view=True, gates=GATES, elsewhere=True, **where):
        """A view; keyframes that are not named are elsewhere, and are like any other."""
        others = [n for n in range(100, 190, 6) if min(
            (abs(n - m) for m in overlaps), default=99) > 12] if elsewhere else []
        found = {n: ELSEWHERE * (1.0 + 0.1 * self.random.standard_normal()) for n in others}
        found.update(overlaps)
        matches = sorted((self.match(n, overlap) for n, overlap in found.items()),
                         key=lambda match: -match.overlap)
        self.asked += 1
        return self.decision.judge(
            f'query {self.asked}', matches, is_new_view, gates, comparable=KEYFRAMES, **where)

    def walk(self, first: int, views: int, **options):
        """Views of one keyframe after the other; all verdicts."""
        return [self.see({first + n: SAME}, **options) for n in range(views)]


def by_keyframe(verdict) -> dict[int, Decision]:
    return {c.match.keyframe.id.keyframe_id: c.decision for c in verdict.candidates}


def accepted(verdict):
    return [c for c in verdict.candidates if c.decision is Decision.ACCEPTED]


def test_a_sequence_is_accepted_and_a_single_view_is_not():
    verdicts = World().walk(20, 6)
    assert not accepted(verdicts[0])
    best, = accepted(verdicts[-1])
    assert best.match.keyframe.id.keyframe_id == 25
    assert best.probability > 0.99
    assert best.likelihood_ratio > 10.0
    assert math.isnan(best.odometry_ratio)


def test_somewhere_new():
    world = World()
    for _ in range(10):
        verdict = world.see({})
    assert set(by_keyframe(verdict).values()) == {Decision.REJECT_NEW_PLACE}
    assert all(c.probability < 0.05 for c in verdict.candidates)
    assert world.verified == []


def test_views_in_no_order_are_no_sequence():
    world = World()
    for number in (20, 80, 45, 10, 65, 30, 90):
        assert not accepted(world.see({number: SAME}))


def test_a_scene_that_looks_like_one_keyframe_view_after_view_is_no_revisit():
    """A hall in the distance, a skyline: the robot moves on, and what it resembles does not."""
    world = World()
    for _ in range(30):
        assert not accepted(world.see({40: 5.0 * ELSEWHERE, 41: 4.0 * ELSEWHERE}))


def test_a_scene_that_looks_like_a_few_keyframes_in_no_order_is_no_revisit():
    world = World()
    for number in (40, 44, 41, 45, 40, 43, 41, 44, 40, 45, 42, 44, 40):
        assert not accepted(world.see({number: 5.0 * ELSEWHERE}))


def test_the_way_back_and_a_turn_on_it_are_revisits_too():
    world = World()
    numbers = [*range(60, 52, -1), *range(53, 61)]
    verdicts = [world.see({number: SAME}) for number in numbers]
    assert accepted(verdicts[7])
    assert accepted(verdicts[-1])


def test_places_that_are_as_likely_are_ambiguous():
    world = World()
    for step in range(12):
        verdict = world.see({20 + step: SAME, 50 + step: SAME, 80 + step: SAME})
        assert not accepted(verdict)
    found = by_keyframe(verdict)
    assert [found[number] for number in (31, 61, 91)] == [Decision.REJECT_AMBIGUOUS] * 3
    assert name_outcome(found.values()) == 'REJECT_AMBIGUOUS'
    assert world.decision.hypotheses == 3


def test_two_places_that_are_as_likely_have_half_a_chance_each():
    world = World()
    for step in range(12):
        verdict = world.see({20 + step: SAME, 60 + step: SAME})
        assert not accepted(verdict)
    chances = {c.match.keyframe.id.keyframe_id: c.probability for c in verdict.candidates}
    assert [chances[31], chances[71]] == pytest.approx([0.5, 0.5], abs=0.01)
    assert world.decision.hypotheses == 2


def test_two_neighbours_that_are_as_likely_are_one_place():
    world = World()
    for step in range(8):
        verdict = world.see({20 + step: SAME, 24 + step: SAME})
    found = by_keyframe(verdict)
    assert {found[27], found[31]} == {Decision.ACCEPTED, Decision.REJECT_DUPLICATE}
    assert world.decision.hypotheses == 1


def test_not_sure_yet():
    verdicts = World().walk(20, 6)
    reasons = [by_keyframe(verdict)[20 + n] for n, verdict in enumerate(verdicts)]
    assert Decision.REJECT_UNSURE in reasons
    assert reasons.index(Decision.REJECT_UNSURE) < reasons.index(Decision.ACCEPTED)


def test_a_lower_probability_closes_sooner():
    careful, bold = (
        [bool(accepted(v)) for v in World().walk(20, 8, gates=replace(GATES, min_probability=p))]
        for p in (0.99, 0.6))
    assert True in careful
    assert bold.index(True) < careful.index(True)


def test_geometry_has_the_last_word():
    world = World(inliers=29)  # of 100
    verdicts = world.walk(20, 6)
    assert by_keyframe(verdicts[-1])[25] is Decision.REJECT_GEOMETRY
    assert not any(map(accepted, verdicts))
    verdicts = World(inliers=30).walk(20, 6)
    assert accepted(verdicts[-1])[0].match.geometry.count == 30


def test_geometry_can_be_turned_off():
    assert accepted(World(inliers=0).walk(20, 6, gates=replace(GATES, min_inlier_share=0.0))[-1])


def test_a_view_whose_geometry_was_refused_is_not_looked_at_again():
    world = World(inliers=0)
    verdicts = world.walk(20, 10)
    assert all(verdict.earlier == [] for verdict in verdicts)
    assert sorted(world.verified) == sorted(set(world.verified))
    assert len(world.verified) >= 8


def test_a_robot_that_stands_gathers_no_evidence():
    world = World()
    world.see({20: SAME})
    before = world.decision.filter.belief
    for _ in range(20):
        verdict = world.see({20: SAME}, is_new_view=False)
        assert not accepted(verdict)
        assert verdict.earlier == []
    assert world.decision.filter.belief is before


def test_a_robot_that_stands_teaches_nothing():
    world = World()
    world.see({})
    before = world.decision.unrelated
    for _ in range(5):
        world.see({}, is_new_view=False)
    assert world.decision.unrelated is before
    world.see({})
    assert world.decision.unrelated.queries == before.queries + 1


def test_a_robot_that_stands_closes_no_loop_again():
    world = World()
    world.walk(20, 6)
    verdict = world.see({25: SAME}, is_new_view=False)
    assert by_keyframe(verdict)[25] is Decision.REJECT_STATIONARY


def test_the_best_of_a_place_is_taken_and_the_others_are_its_duplicates():
    world = World()
    for n in range(6):
        verdict = world.see({19 + n: 0.2, 20 + n: SAME, 21 + n: 0.25})
    found = by_keyframe(verdict)
    assert found[25] is Decision.ACCEPTED
    assert found[24] is found[26] is Decision.REJECT_DUPLICATE
    chances = {c.match.keyframe.id.keyframe_id: c.probability for c in verdict.candidates}
    assert chances[25] > chances[26] > chances[24] > 0.5


def test_of_a_sure_place_the_keyframe_that_shows_most_is_taken_though_it_is_at_the_edge():
    world = World()
    world.walk(20, 6)
    verdict = world.see({25: 0.9 * SAME, 26: SAME, 31: 1.1 * SAME})
    best, = accepted(verdict)
    assert best.match.keyframe.id.keyframe_id == 31
    assert best.probability >= GATES.min_probability
    assert by_keyframe(verdict)[26] is Decision.REJECT_DUPLICATE


def test_the_first_keyframe_of_a_session_tells_no_spacing():
    world, seen = World(), []
    update = world.decision.filter.update
    world.decision.filter.update = lambda *args: seen.append(args[-1]) or update(*args)
    world.see({1: SAME, 9: ELSEWHERE}, moved_m=2.0, elsewhere=False)
    world.see({1: SAME}, moved_m=2.0, elsewhere=False)
    assert seen == [pytest.approx(2.0 / (9.0 / 8.0)), pytest.approx(1.0)]


def test_earlier_views_are_published_once_each_in_order():
    world = World()
    told = []
    for n in range(8):
        verdict = world.see({20 + n: SAME})
        world.decision.kept(KeyframeId(2, n + 1))
        told += [(c.query, c.keyframe_id, c.candidate.match.keyframe.id.keyframe_id)
                 for c in verdict.earlier]
        if accepted(verdict):
            told.append((f'query {n + 1}', None, 20 + n))
    first = 9 - len(told)
    assert first <= 3
    assert [query for query, *_ in told] == [f'query {n}' for n in range(first, 9)]
    assert [number for *_, number in told] == list(range(19 + first, 28))
    assert told[0][1] == KeyframeId(2, first)


def test_an_earlier_closure_carries_all_candidates_of_its_view():
    earlier = [closure for verdict in World().walk(20, 8) for closure in verdict.earlier]
    assert earlier
    for closure in earlier:
        decisions = [candidate.decision for candidate in closure.candidates]
        assert len(decisions) > 10
        assert decisions.count(Decision.ACCEPTED) == 1
        assert closure.candidate.probability >= GATES.min_probability
        assert closure.keyframe_id is None


def test_views_that_are_longer_ago_are_not_published():
    # Two places are as likely for 12 views; then only one of them goes on.
    told = []
    for look_back in (4, 20):
        world, gates = World(), replace(GATES, look_back=look_back)
        for step in range(12):
            verdict = world.see({20 + step: SAME, 60 + step: SAME}, gates=gates)
            assert not accepted(verdict)
            assert verdict.earlier == []
        found = [world.see({32 + step: SAME}, gates=gates) for step in range(4)]
        told.append([c.query for verdict in found for c in verdict.earlier])
    short, long = ([int(query.split()[1]) for query in queries] for queries in told)
    assert long == sorted(set(long))
    assert long[0] <= 4
    assert 16 - 4 - 4 <= short[0] <= 12


def test_the_keyframe_of_an_earlier_closure_shows_that_place_from_then_on():
    world = World()
    for n in range(8):
        world.see({20 + n: SAME})
        world.decision.kept(KeyframeId(1, 150 + n))
    world.decision.reset()
    for n in range(8):
        verdict = world.see({20 + n: SAME, 150 + n: 0.9 * SAME}, elsewhere=False)
    assert by_keyframe(verdict) == {
        27: Decision.ACCEPTED, 157: Decision.REJECT_DUPLICATE}


def test_looking_back_can_be_turned_off():
    verdicts = World().walk(20, 8, gates=GateSettings(look_back=0))
    assert [verdict.earlier for verdict in verdicts] == [[]] * 8


def test_a_sure_place_that_this_view_does_not_show_is_not_accepted():
    world = World()
    world.walk(20, 8)
    assert not accepted(world.see({28: ELSEWHERE}))


# ---- odometry -----------------------------------------------------------------------------------


def here(x_m: float, travelled_m: float, z_m: float = 0.0) -> Whereabouts:
    pose = Pose(np.array([x_m, 0.0, z_m]), np.array([0.0, 0.0, 0.0, 1.0]))
    return Whereabouts(SessionId(1), pose, travelled_m)


def along_x(number: int) -> Pose:
    return Pose.planar(float(number), 0.0, 0.0)


@pytest.mark.parametrize(('off_m', 'height_m', 'gates', 'is_possible'), [
    (0.0, 0.0, {}, True),
    (25.0, 0.0, {}, True),  # 10 m and a tenth of the 180 m since
    (35.0, 0.0, {}, False),
    (35.0, 0.0, {'max_drift': 0.2}, True),
    (0.0, 4.0, {}, False),  # a storey: 1 m and a hundredth of the way
    (0.0, 2.0, {}, True),
    (0.0, 4.0, {'max_vertical_drift': 10.0}, True)])
def test_where_odometry_cannot_have_been(off_m, height_m, gates, is_possible):
    world, gates = World(poses=along_x), replace(GATES, **gates)
    for n in range(8):
        verdict = world.see({20 + n: SAME}, gates=gates, moved_m=1.0,
                            here=here(20.0 + n + off_m, 200.0 + n, height_m))
    found = by_keyframe(verdict)[27]
    assert found is (Decision.ACCEPTED if is_possible else Decision.REJECT_ODOMETRY)
    ratio = next(c.odometry_ratio for c in verdict.candidates
                 if c.match.keyframe.id.keyframe_id == 27)
    assert (ratio <= 1.0) == is_possible


def test_a_rival_that_odometry_rules_out_is_none():
    world = World(poses=along_x)
    for n in range(8):
        verdict = world.see({20 + n: SAME, 120 + n: SAME}, moved_m=1.0,
                            here=here(20.0 + n, 250.0 + n))
    assert by_keyframe(verdict)[27] is Decision.ACCEPTED
    assert by_keyframe(verdict)[127] is Decision.REJECT_ODOMETRY


def test_floors_that_look_alike_are_no_chance():
    """Four storeys of 40 keyframes, the robot in a fifth, then in the first again."""
    def storeys(number: int) -> Pose:
        floor, along = divmod(number, 40)
        return Pose(np.array([along, 0.0, 4.0 * floor]), np.array([0.0, 0.0, 0.0, 1.0]))

    def copies(along: int) -> dict[int, float]:
        return {along + step + 40 * floor: SAME * (1.0 - 0.2 * abs(step))
                for floor in range(4) for step in range(-2, 3)}

    world = World(poses=storeys)
    for n in range(30):
        world.see(copies(5 + n), moved_m=1.0, elsewhere=False,
                  here=here(5.0 + n, 205.0 + n, 16.0))
    assert world.decision.unrelated.level < 2.0 * Unrelated().level
    for n in range(12):
        verdict = world.see(copies(5 + n), moved_m=1.0, elsewhere=False,
                            here=here(5.0 + n, 245.0 + n))
    best, = accepted(verdict)
    assert best.match.keyframe.id.keyframe_id == 16


def test_other_sessions_have_an_odometry_of_their_own():
    world = World(poses=along_x)
    for n in range(8):
        where = replace(here(500.0 + n, 0.0), session=SessionId(2))
        verdict = world.see({20 + n: SAME}, moved_m=1.0, here=where)
    assert accepted(verdict)


# ---- places that the map holds several times ----------------------------------------------------


def test_laps_that_closures_link_are_one_place():
    world = World()
    for n in range(15):
        world.decision.remember(KeyframeId(1, 60 + n), KeyframeId(1, 20 + n))
    for n in range(10):
        verdict = world.see({20 + n: SAME, 60 + n: 0.9 * SAME})
    assert by_keyframe(verdict)[29] is Decision.ACCEPTED
    assert by_keyframe(verdict)[69] is Decision.REJECT_DUPLICATE


def test_keyframes_near_each_other_by_poses_are_one_place():
    world = World(poses=lambda number: Pose.planar(float(number % 40), 0.0, 0.0))
    for n in range(10):
        verdict = world.see({20 + n: SAME, 60 + n: 0.9 * SAME})
    assert by_keyframe(verdict)[29] is Decision.ACCEPTED


# ---- the rest -----------------------------------------------------------------------------------


def test_no_candidates():
    verdict = World().see({}, elsewhere=False)
    assert (verdict.candidates, verdict.earlier) == ([], [])


def test_a_reset_forgets_where_the_robot_was():
    world = World()
    world.walk(20, 6)
    world.decision.reset()
    assert not accepted(world.see({26: SAME}))


def test_a_reset_forgets_earlier_views():
    world = World()
    world.see({20: SAME})
    world.decision.reset()
    world.decision.kept(KeyframeId(2, 1))  # of no view: nothing happens
    told = [c.query for verdict in (world.see({21 + n: SAME}) for n in range(8))
            for c in verdict.earlier]
    assert told
    assert 'query 1' not in told


def test_a_keyframe_that_the_map_has_forgotten_is_no_error():
    world = World()
    world.decision.find = lambda _: None
    assert accepted(world.walk(20, 6)[-1])


@pytest.mark.parametrize('overlap', [0.0, 0.3, 1.0])
def test_a_network_that_tells_nothing_closes_nothing(overlap):
    world = World()
    for n in range(30):
        matches = [world.match(number, overlap) for number in range(1 + n % 5, KEYFRAMES, 10)]
        verdict = world.decision.judge('query', matches, True, GATES, comparable=KEYFRAMES)
        assert not accepted(verdict)
        assert verdict.earlier == []


def test_unrelated_images_are_learned_from():
    world = World()
    for _ in range(30):
        world.see({})
    assert world.decision.unrelated.level == pytest.approx(ELSEWHERE, rel=0.1)
    assert world.decision.unrelated.queries > 20
