"""The gates that a candidate has to pass, in one table.

The order of the reasons, the texts in the diagnostics and in the docs, and the settings that
`benchmarks/gates.py` loosens are derived from the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from selavpr_ros.matching.evidence import Match
from selavpr_ros.settings import GateSettings, Value

# A place has a rival if all other known places together have this share of its probability.
RIVAL_SHARE = 0.5


class Decision(IntEnum):
    """Accepted, or the reason why not; names and values are those of selavpr_msgs/PlaceMatch."""

    ACCEPTED = 0
    REJECT_NEW_PLACE = 1
    REJECT_AMBIGUOUS = 4
    REJECT_UNSURE = 5
    REJECT_GEOMETRY = 6
    REJECT_STATIONARY = 8
    REJECT_ODOMETRY = 9
    REJECT_DUPLICATE = 10


@dataclass(frozen=True)
class Candidate:
    """A match with its verdict.

    Attributes:
        match: the retrieved keyframe with its evidence.
        decision: accepted, or the reason for its rejection.
        probability: probability that query and keyframe show the same place, by all views so far.
        likelihood_ratio: how many times likelier this view alone is here than somewhere new.
        odometry_ratio: distance from the query by odometry / the most that drift allows; the
            larger of two such ratios, in all directions and vertical. Above 1, odometry
            contradicts the match. NaN without odometry, and for keyframes of other sessions,
            which have odometry frames of their own.
    """

    match: Match
    decision: Decision
    probability: float = math.nan
    likelihood_ratio: float = math.nan
    odometry_ratio: float = math.nan


@dataclass(frozen=True)
class Standing:
    """What a gate decides by.

    Attributes:
        candidate: the match with its evidence; its geometry is computed for `BEST_GATES` only.
        at_place: probability that the robot is at the candidate's place.
        new: probability that the robot is somewhere new.
        is_new_view: whether the robot has moved since the last view.
    """

    candidate: Candidate
    at_place: float
    new: float
    is_new_view: bool

    @property
    def elsewhere(self) -> float:
        """Probability that the robot is at another known place."""
        return 1.0 - self.new - self.at_place


@dataclass(frozen=True)
class Gate:
    """One reason to reject a candidate.

    Attributes:
        decision: the reason that the gate gives.
        stops: tells whether the gate rejects a candidate.
        why: what the reason means, in words for people.
        loosened: the settings of the gate, with the values that let most candidates through.
    """

    decision: Decision
    stops: Callable[[Standing, GateSettings], bool]
    why: str
    loosened: Mapping[str, Value]

    def __str__(self) -> str:
        return f'{self.why} ({", ".join(self.loosened)})'


def _is_impossible(standing: Standing, gates: GateSettings) -> bool:
    return standing.candidate.odometry_ratio > 1.0  # False for NaN: unknown is no reason


def _is_unsure(standing: Standing, gates: GateSettings) -> bool:
    return not standing.at_place >= gates.min_probability  # True for NaN


def _is_new_place(standing: Standing, gates: GateSettings) -> bool:
    return _is_unsure(standing, gates) and standing.new > 0.5


def _has_rival(standing: Standing, gates: GateSettings) -> bool:
    rival = standing.elsewhere >= RIVAL_SHARE * standing.at_place
    return _is_unsure(standing, gates) and rival


def _misfits(standing: Standing, gates: GateSettings) -> bool:
    """Whether too few mutual matches fit one movement; False if no geometry was computed."""
    match = standing.candidate.match
    return match.geometry is not None and (
        match.geometry.count < gates.min_inlier_share * match.local_matches)


def _stands(standing: Standing, gates: GateSettings) -> bool:
    return not standing.is_new_view


UNSURE = {'gates.min_probability': 0.5}
# Asked of every candidate, in this order.
PLACE_GATES = (
    Gate(Decision.REJECT_ODOMETRY, _is_impossible,
         'odometry places the keyframe farther away than it can have drifted',
         {'gates.max_drift': 10.0, 'gates.max_vertical_drift': 10.0}),
    Gate(Decision.REJECT_NEW_PLACE, _is_new_place,
         'the robot was probably somewhere new', UNSURE),
    Gate(Decision.REJECT_AMBIGUOUS, _has_rival,
         'another known place was about as likely', UNSURE),
    Gate(Decision.REJECT_UNSURE, _is_unsure,
         'this place was the likeliest, but not sure yet: the next views may make it so', UNSURE),
)
# Asked of the best candidate of a place that passes those; no later view changes the answer.
BEST_GATES = (
    Gate(Decision.REJECT_GEOMETRY, _misfits,
         'the place was sure, but too few mutual matches fit one movement of the camera',
         {'verify.geometry': 'none', 'gates.min_inlier_share': 0.0}),
    Gate(Decision.REJECT_STATIONARY, _stands,
         'the place was sure, but the robot had hardly moved since the last view',
         {'gates.min_motion': 0.0}),
)
GATES = (*PLACE_GATES, *BEST_GATES)
ORDER = (*(gate.decision for gate in GATES), Decision.ACCEPTED)
FINAL = (*(gate.decision for gate in BEST_GATES), Decision.ACCEPTED)

NO_CANDIDATES = 'NO_CANDIDATES'
# Why a query is not a loop closure, by outcome (`name_outcome`).
WHY = {
    NO_CANDIDATES: 'no keyframe was old enough to compare with (index.exclude_recent_*)',
    **{gate.decision.name: str(gate) for gate in GATES}}


def ask(
    gates: Sequence[Gate], standing: Standing, settings: GateSettings, passed: Decision
) -> Decision:
    """The reason of the first gate that stops a candidate; `passed` if none does."""
    return next((gate.decision for gate in gates if gate.stops(standing, settings)), passed)


def name_outcome(decisions: Iterable[Decision]) -> str:
    """Name the outcome of a query: that of the candidate that passed most gates.

    Returns:
        'ACCEPTED', the name of the gate that stopped the candidate, or NO_CANDIDATES.
    """
    # A duplicate shows the place of a better candidate, whose decision counts.
    own = [decision for decision in decisions if decision is not Decision.REJECT_DUPLICATE]
    return max(own, key=ORDER.index).name if own else NO_CANDIDATES
