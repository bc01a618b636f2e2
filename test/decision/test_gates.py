"""The table of gates: whole, in order, and each stops what it is for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selavpr_ros.decision.gates import (
    FINAL,
    GATES,
    NO_CANDIDATES,
    ORDER,
    WHY,
    Candidate,
    Decision,
    Standing,
    ask,
    name_outcome,
)
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId
from selavpr_ros.matching.evidence import Match
from selavpr_ros.matching.geometry import FUNDAMENTAL, Geometry
from selavpr_ros.settings import GateSettings, make_settings

PASSED = Decision.ACCEPTED


def standing(at_place=1.0, new=0.0, *, is_new_view=True, odometry=math.nan, inliers=None):
    keyframe = Keyframe(KeyframeId(1, 1), 1, np.ones(1, np.float32), None, 0.0)
    geometry = None if inliers is None else Geometry(FUNDAMENTAL, np.arange(100) < inliers, 1.0)
    match = Match(keyframe, 0, 0.9, 100, 0.3, geometry=geometry)
    return Standing(Candidate(match, PASSED, odometry_ratio=odometry), at_place, new, is_new_view)


@pytest.mark.parametrize(('found', 'decision'), [
    (standing(), PASSED),
    (standing(odometry=1.0), PASSED),
    (standing(odometry=1.01), Decision.REJECT_ODOMETRY),
    (standing(0.5, 0.0, odometry=1.01), Decision.REJECT_ODOMETRY),
    (standing(0.99), PASSED),
    (standing(0.98, 0.01), Decision.REJECT_UNSURE),
    (standing(math.nan), Decision.REJECT_UNSURE),
    (standing(0.4, 0.51), Decision.REJECT_NEW_PLACE),
    (standing(0.6, 0.1), Decision.REJECT_AMBIGUOUS),
    (standing(0.7, 0.1), Decision.REJECT_UNSURE),
    (standing(inliers=30), PASSED),
    (standing(inliers=29), Decision.REJECT_GEOMETRY),
    (standing(inliers=29, is_new_view=False), Decision.REJECT_GEOMETRY),
    (standing(is_new_view=False), Decision.REJECT_STATIONARY),
])
def test_the_first_gate_that_stops_a_candidate_is_the_reason(found, decision):
    assert ask(GATES, found, GateSettings(), PASSED) is decision


def test_every_reason_but_one_is_a_gate():
    assert [gate.decision for gate in GATES] == list(ORDER[:-1])
    assert len(set(ORDER)) == len(ORDER)
    assert set(ORDER) == set(Decision) - {Decision.REJECT_DUPLICATE}
    assert {Decision.ACCEPTED, Decision.REJECT_GEOMETRY} <= set(FINAL)
    assert Decision.REJECT_UNSURE not in FINAL


@pytest.mark.parametrize('gate', GATES, ids=lambda gate: gate.decision.name)
def test_every_gate_can_be_loosened(gate):
    assert gate.loosened
    make_settings(dict(gate.loosened))


def test_every_outcome_is_explained_with_its_settings():
    assert set(WHY) == {NO_CANDIDATES, *(gate.decision.name for gate in GATES)}
    assert WHY['REJECT_ODOMETRY'].endswith('(gates.max_drift, gates.max_vertical_drift)')


def test_an_outcome_is_the_farthest_gate():
    assert name_outcome([]) == NO_CANDIDATES
    assert name_outcome([Decision.REJECT_NEW_PLACE, Decision.REJECT_DUPLICATE]) == (
        'REJECT_NEW_PLACE')
    assert name_outcome([Decision.REJECT_ODOMETRY, Decision.REJECT_GEOMETRY]) == 'REJECT_GEOMETRY'
