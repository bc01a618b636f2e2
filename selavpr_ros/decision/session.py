"""What belongs to one session, and is made anew with each."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

from selavpr_ros.errors import StampError
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, Session, SessionId
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.matching.query import Query
from selavpr_ros.pose import HARMLESS_JUMP_M, MOST_SPEED, TIME_JUMP_NS, Pose
from selavpr_ros.settings import IndexSettings, QuerySettings

# Similarity of images that have nothing in common, until more is known of a site.
UNRELATED_SIMILARITY = 0.95
# No robot gains speed faster, in metres a second squared, nor more of it between two queries, in
# metres a second.
MOST_ACCELERATION, MOST_GAIN = 10.0, 20.0


def moved(
    before: Pose | None, now: Pose | None, min_translation: float, min_rotation: float
) -> bool:
    """Tell whether a robot moved or turned enough; an unknown pose counts as moved.

    Args:
        before, now: poses in one odometry frame, or None.
        min_translation: metres; with 0, every pose counts as moved.
        min_rotation: radians; 0 ignores rotation.
    """
    if before is None or now is None or min_translation == 0.0:
        return True
    return now.distance_to(before) >= min_translation or (
        min_rotation > 0.0 and now.angle_to(before) >= min_rotation)


def _is_possible(moved_m: float, duration_ns: int) -> bool:
    """Tell whether a robot can have gone so far in that time."""
    return moved_m <= MOST_SPEED * 1e-9 * duration_ns


@dataclass(frozen=True)
class OdometryJump:
    """The odometry is where no robot can have got in that time; `str` says so.

    Attributes:
        moved_m, seconds: from the pose before to the first one after the jump.
        is_confirmed: whether a second pose goes on from the first one: the odometry started again
            in another frame. Else the pose may be a slip.
    """

    moved_m: float
    seconds: float
    is_confirmed: bool = False

    def __str__(self) -> str:
        what = (f'the odometry jumped by {self.moved_m:.0f} m in {self.seconds:.1f} s, which no '
                'robot can')
        if self.is_confirmed:
            return f'{what}, and went on from there: a new session begins'
        return f'{what}: the pose is not used, unless the next one goes on from there'


def _why_not_after(stamp_ns: int, back_ns: int) -> str:
    """Why an image that is `back_ns` before the last one, or at the same time, is not used."""
    if back_ns:
        return (f'image stamp {stamp_ns} is {back_ns * 1e-9:.3f} s before the last one; images '
                'must come in order')
    if stamp_ns == 0:
        return ('the image stamps are 0: the driver sets no stamps, so images cannot be told '
                'apart in time; header.stamp has to be the time of exposure')
    return (f'image stamp {stamp_ns} is that of the last image, too: an image is sent twice, or '
            'two cameras publish on one topic')


class RunningSession:
    """One continuous recording with one odometry frame, while it is made.

    Args:
        session_id: its identity in the map.
        label: what a person calls it.
        after_jump: whether the session begins because stamps or odometry jumped. The robot may not
            have moved, so the newest keyframes of the session before are too recent, too.

    Attributes:
        travelled_m: metres since the session's start, along the known poses.
        keyframes: how many keyframes of the session were added to the map.
        last_query: the newest query, or None.
        last_view: the newest query that showed something new.
        last_apart: the newest query that was as far from the one before as keyframes have to be.
        placed_view, placed_apart: the newest ones of these that have a pose, or None.
        lowest_similarity: lowest similarity of any query to `last_view` or `last_apart`.
    """

    def __init__(
        self, session_id: SessionId, label: str = '', *, after_jump: bool = False
    ) -> None:
        self.id, self.label, self.after_jump = session_id, label, after_jump
        self.travelled_m, self.keyframes = 0.0, 0
        self.last_query: Query | None = None
        self.last_view: Query | None = None
        self.last_apart: Query | None = None
        self.placed_view: Query | None = None
        self.placed_apart: Query | None = None
        self.lowest_similarity = UNRELATED_SIMILARITY
        # Whether each of the last queries that were apart like keyframes became one.
        self._were_kept: deque[bool] = deque()
        self._behind_ns: int | None = None
        self._last_pose: Pose | None = None
        self._last_pose_ns = 0
        self._fastest = MOST_SPEED  # metres a second, of the steps so far
        self._knows_speed = False
        self._jumped: tuple[Pose, int, OdometryJump] | None = None

    def is_due(self, stamp_ns: int, pose: Pose | None, settings: QuerySettings) -> bool:
        """Tell whether an image is to become a query."""
        last = self.last_query
        if last is None or stamp_ns <= last.stamp_ns:
            return True
        # Cameras jitter: an image a tenth of the period early is still on time.
        if (stamp_ns - last.stamp_ns) * 1e-9 < 0.9 / settings.max_rate:
            return False
        return moved(last.pose, pose, settings.min_translation, settings.min_rotation)

    def follow_clock(self, stamp_ns: int) -> bool:
        """Tell whether the clock was set back: two stamps in a row, more than a second behind.

        Raises:
            StampError: the stamp is not after the last one.
        """
        before_ns, self._behind_ns = self._behind_ns, None
        if self.last_query is None or stamp_ns > self.last_query.stamp_ns:
            return False
        back_ns = self.last_query.stamp_ns - stamp_ns
        if back_ns > TIME_JUMP_NS:
            if before_ns is not None and stamp_ns > before_ns:
                return True
            self._behind_ns = stamp_ns
        raise StampError(_why_not_after(stamp_ns, back_ns))

    def follow_odometry(self, pose: Pose | None, stamp_ns: int) -> OdometryJump | None:
        """The jump of the odometry to a pose, if no robot can have got there in that time."""
        last, last_ns = self._last_pose, self._last_pose_ns
        if pose is None or last is None:
            return None
        before, self._jumped = self._jumped, None
        if self._can_go(last, last_ns, pose, stamp_ns):
            return None
        if before and self._can_go(before[0], before[1], pose, stamp_ns):
            return replace(before[2], is_confirmed=True)
        jump = OdometryJump(last.distance_to(pose), (stamp_ns - last_ns) * 1e-9)
        self._jumped = pose, stamp_ns, jump
        return jump

    def _can_go(self, start: Pose, start_ns: int, end: Pose, end_ns: int) -> bool:
        """Whether a robot as fast as so far gets there, or a jump so small that it is harmless."""
        seconds = (end_ns - start_ns) * 1e-9
        speed = self._fastest + min(MOST_ACCELERATION / 2.0 * seconds, MOST_GAIN)
        return start.distance_to(end) <= min(speed, MOST_SPEED) * seconds + HARMLESS_JUMP_M

    def travel(self, pose: Pose | None, stamp_ns: int) -> float:
        """Add the way to a pose, unless the odometry jumped there; return `travelled_m`."""
        if pose:
            moved_m = pose.distance_to(self._last_pose or pose)
            if _is_possible(moved_m, stamp_ns - self._last_pose_ns):
                self.travelled_m += moved_m
            if self._last_pose:
                self._note_speed(moved_m, stamp_ns - self._last_pose_ns)
            self._last_pose, self._last_pose_ns = pose, stamp_ns
        return self.travelled_m

    def _note_speed(self, moved_m: float, duration_ns: int) -> None:
        speed = min(moved_m / max(duration_ns * 1e-9, 1e-3), MOST_SPEED)
        self._fastest = max(speed, self._fastest if self._knows_speed else 0.0)
        self._knows_speed = True

    def learn_similarity(self, query: Query) -> None:
        """Lower `lowest_similarity` if a query is less similar to the queries before."""
        for last in (self.last_view, self.last_apart):
            if last:
                self.lowest_similarity = min(self.lowest_similarity, query.similarity_to(last))

    def moved_since_view(self, query: Query) -> float:
        """Metres since the last view; NaN without odometry, or if the odometry jumped."""
        last = self.last_view
        if last is None or last.pose is None or query.pose is None:
            return math.nan
        moved_m = last.pose.distance_to(query.pose)
        return moved_m if _is_possible(moved_m, query.stamp_ns - last.stamp_ns) else math.nan

    def set_view(self, query: Query) -> None:
        """Note a query that showed something new."""
        self.last_view = query
        self.placed_view = query if query.pose else self.placed_view

    def set_apart(self, query: Query, is_kept: bool) -> None:
        """Note a query that is as far from the one before as keyframes have to be."""
        self.last_apart = query
        self.placed_apart = query if query.pose else self.placed_apart
        self._were_kept.append(is_kept)

    def count_old_enough(
        self, query: Query, keyframe_map: KeyframeMap, settings: IndexSettings
    ) -> int:
        """Count the keyframes of the map, from the oldest on, that may be candidates."""
        exclude = settings.exclude_recent_keyframes
        # On a known path no keyframes are added: the newest ones may be a lap old.
        while len(self._were_kept) > exclude:
            self._were_kept.popleft()
        recent = sum(self._were_kept)
        count = keyframe_map.first_recent(
            self.id, query.stamp_ns, query.travelled_m if query.pose else 0.0, recent,
            settings.exclude_recent_seconds, settings.exclude_recent_distance)
        if self.after_jump:
            before = exclude - len(self._were_kept)
            count = min(count, len(keyframe_map) - before - recent)
        return max(0, count)

    def next_keyframe(self, query: Query, *, has_local: bool) -> Keyframe:
        """Make the next keyframe of a query; keyframes count from 1.

        Args:
            query: that becomes the keyframe.
            has_local: whether its local features are kept.
        """
        self.keyframes += 1
        number = KeyframeId(self.id.session_id, self.keyframes, self.id.robot_id)
        return Keyframe(number, query.stamp_ns, query.global_descriptor, query.pose,
                        query.travelled_m, has_local=has_local)

    def describe(self, query: Query, model_id: str) -> Session:
        """The session as the map knows it, if it begins with this query."""
        return Session(self.id, self.label, query.stamp_ns, query.context.pose_frame, model_id)
