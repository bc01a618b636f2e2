"""Stage 3: which keyframes a query is compared with, and the most similar ones of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from selavpr_ros.maps.keyframe import Hint, SessionId
from selavpr_ros.maps.keyframe_index import Rows
from selavpr_ros.maps.keyframe_map import KeyframeMap, Retrieval


@dataclass(frozen=True)
class Scope:
    """Which keyframes a query is compared with.

    Attributes:
        session: the running session.
        old_enough: number of keyframes, from the oldest on, that are old enough to be candidates.
        sessions: 'all', 'intra' (the running session alone) or 'inter' (all others).
        hint: where the robot may be, or None for anywhere.
    """

    session: SessionId
    old_enough: int
    sessions: str = 'all'
    hint: Hint | None = None


def retrieve(
    keyframe_map: KeyframeMap, global_descriptor: np.ndarray, top_k: int, scope: Scope
) -> list[Retrieval]:
    """Find the most similar keyframes, best first; with a shared map, of other robots, too.

    Args:
        keyframe_map: the map to search.
        global_descriptor: (D,) float32, a unit vector.
        top_k: how many at most.
        scope: which keyframes count.
    """
    found = keyframe_map.search(global_descriptor, top_k, _rows(keyframe_map, scope))
    if scope.sessions != 'intra':
        found += keyframe_map.search_shared(global_descriptor, top_k, scope.hint)
    found.sort(key=lambda retrieval: -retrieval.similarity)
    return [replace(each, rank=rank) for rank, each in enumerate(found[:top_k])]


def _rows(keyframe_map: KeyframeMap, scope: Scope) -> Rows:
    """Rows of the keyframes that a query is compared with."""
    start = min(keyframe_map.session_start(scope.session), scope.old_enough)
    rows = range(start if scope.sessions == 'intra' else 0,
                 start if scope.sessions == 'inter' else scope.old_enough)
    if scope.hint is None:
        return rows
    near = keyframe_map.near(scope.hint.position_m, scope.hint.radius_m)
    return near[(near >= rows.start) & (near < rows.stop)]
