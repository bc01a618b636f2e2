"""The keyframes of a map in memory: by row, by id, by session, by time and by place."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np

from selavpr_ros.errors import MapError
from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    Session,
    SessionId,
)

ROWS_AT_ONCE = 4096


class KeyframeTable:
    """Keyframes in rows: those of a session lie together, the oldest first.

    Args:
        keyframes: the keyframes to begin with.
        sessions: the sessions of the keyframes, perhaps with some whose keyframes are forgotten.

    Attributes:
        row_of: each keyframe's row.
        starts: row of each session's first keyframe, in their order.
        sessions: those that have keyframes, in the same order.
    """

    def __init__(
        self, keyframes: Iterable[Keyframe] = (), sessions: Iterable[Session] = ()
    ) -> None:
        self._keyframes = list(keyframes)
        self._last_session_ids: dict[int, int] = {}  # by robot; of forgotten sessions, too
        self.sessions: dict[SessionId, Session] = {each.id: each for each in sessions}
        for session in self.sessions:
            self._count_session(session)
        self._number_rows()

    def _number_rows(self) -> None:
        self.row_of = {keyframe.id: row for row, keyframe in enumerate(self._keyframes)}
        self.starts: dict[SessionId, int] = {}
        for row, keyframe in enumerate(self._keyframes):
            self.starts.setdefault(keyframe.id.session, row)
        self.sessions = {session: self.sessions[session] for session in self.starts}

    def _count_session(self, session: SessionId) -> None:
        last = self._last_session_ids.get(session.robot_id, 0)
        self._last_session_ids[session.robot_id] = max(last, session.session_id)

    def __len__(self) -> int:
        return len(self._keyframes)

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def __getitem__(self, row: int) -> Keyframe:
        return self._keyframes[row]

    def descriptors(self) -> Iterator[np.ndarray]:
        """All global descriptors, (n, D) at a time."""
        rest = (keyframe.global_descriptor for keyframe in self._keyframes)
        while rows := list(islice(rest, ROWS_AT_ONCE)):
            yield np.stack(rows)

    def last_session_id(self, robot_id: int) -> int:
        """Number of a robot's last session, even if that is forgotten; 0 without any."""
        return self._last_session_ids.get(robot_id, 0)

    # ---- growing -------------------------------------------------------------------------------

    def require_order(self, keyframe_id: KeyframeId) -> None:
        """Raise MapError unless the keyframe continues the newest session, or begins one."""
        newest = self._keyframes[-1] if self._keyframes else None
        if newest is None or keyframe_id.session not in self.starts:
            return
        if newest.id.session != keyframe_id.session or keyframe_id <= newest.id:
            raise MapError(f'keyframe {keyframe_id} cannot be added after {newest.id}: ids have '
                           'to increase, and only the newest session goes on')

    def add(self, keyframe: Keyframe, session: Session) -> None:
        """Append a keyframe."""
        self.row_of[keyframe.id] = len(self)
        self.starts.setdefault(keyframe.id.session, len(self))
        self._keyframes.append(keyframe)
        self.sessions.setdefault(keyframe.id.session, session)
        self._count_session(keyframe.id.session)

    def set_map_pose(self, keyframe_id: KeyframeId, pose: MapPose) -> None:
        """Set the back-end's pose of a keyframe."""
        row = self.row_of[keyframe_id]
        self._keyframes[row] = replace(self._keyframes[row], map_pose=pose)

    def remove(self, gone: Collection[KeyframeId]) -> None:
        """Forget keyframes; the rows of those after them change."""
        self._keyframes = [k for k in self._keyframes if k.id not in gone]
        self._number_rows()

    # ---- looking up ----------------------------------------------------------------------------

    def first_recent(
        self, session: SessionId, stamp_ns: int, travelled_m: float,
        keyframes: int, seconds: float, metres: float,
    ) -> int:
        """See `KeyframeMap.first_recent`."""
        start = self.starts.get(session, len(self))
        oldest_ns, nearest_m = stamp_ns - round(seconds * 1e9), travelled_m - metres
        by_time = bisect_left(self._keyframes, oldest_ns, lo=start, key=lambda k: k.stamp_ns)
        by_way = len(self)
        if travelled_m > 0.0:
            by_way = bisect_left(
                self._keyframes, nearest_m, lo=start, key=lambda k: k.travelled_m)
        return min(max(start, len(self) - keyframes), by_time, by_way)

    def near(self, position_m: np.ndarray, radius_m: float) -> np.ndarray:
        """Rows of the keyframes whose `place` is within `radius_m` of a position (3,)."""
        return np.array([
            row for row, keyframe in enumerate(self._keyframes)
            if keyframe.place and np.linalg.norm(
                keyframe.place.translation_m - position_m) <= radius_m], np.int64)

    def rows_of_oldest(self, but: SessionId) -> list[int]:
        """Rows of the oldest session other than `but`."""
        oldest = next((session for session in self.starts if session != but), None)
        return [row for row, k in enumerate(self._keyframes) if k.id.session == oldest]

    def rows_of_densest(self, count: int, newest: int) -> list[int]:
        """Rows of the keyframes that look most like the one before them in their session.

        Args:
            count: number of rows.
            newest: number of keyframes at the end that are left out.
        """
        rows = self._keyframes[: max(0, len(self) - newest)]
        similarity = np.array([-1.0, *(
            float(before.global_descriptor @ keyframe.global_descriptor)
            if before.id.session == keyframe.id.session else -1.0
            for before, keyframe in pairwise(rows))])[: len(rows)]
        return [int(row) for row in np.argsort(similarity)[::-1][:count]]
