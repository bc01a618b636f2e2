"""All poses of a recording, interpolated at any stamp."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from itertools import pairwise

from selavpr_ros.pose import TIME_JUMP_NS, Pose, PoseBuffer
from selavpr_ros.recordings.clocks import Span, describe_gap

StampedPose = tuple[int, Pose]
EVER_S = 1e9

logger = logging.getLogger(__name__)


def _split_at_jumps(poses: list[StampedPose]) -> list[list[StampedPose]]:
    """Split poses where stamps jump back: a recorded simulation may have been reset."""
    jumps = [
        i for i, (before, after) in enumerate(pairwise(poses), start=1)
        if before[0] - after[0] > TIME_JUMP_NS
    ]
    return [poses[a:b] for a, b in pairwise([0, *jumps, len(poses)])]


class PoseTrack:
    """The poses of a whole recording, as the live node knows them after waiting for odometry.

    Poses slightly out of order are sorted. Where stamps jump back by more than a second, another
    stretch begins; of several stretches that cover a stamp, the latest counts.

    Args:
        poses: stamp in ns and pose.
        max_gap_s: gaps longer than this are not interpolated; 0 follows the rate of the poses.
    """

    def __init__(self, poses: Iterable[StampedPose] = (), max_gap_s: float = 0.0) -> None:
        poses = list(poses)
        self._span, self._max_gap_s = Span.of(ns for ns, _ in poses), max_gap_s
        stretches = _split_at_jumps(poses)
        if len(stretches) > 1:
            logger.warning('pose stamps jump back %d times', len(stretches) - 1)
        self._buffers = [self._buffer(stretch, max_gap_s) for stretch in reversed(stretches)]

    @staticmethod
    def _buffer(stretch: list[StampedPose], max_gap_s: float) -> PoseBuffer:
        buffer = PoseBuffer(EVER_S, max_gap_s=max_gap_s, max_poses=max(2, len(stretch)))
        for stamp_ns, pose in sorted(stretch, key=lambda item: item[0]):
            buffer.add(stamp_ns, pose)
        return buffer

    def at(self, stamp_ns: int) -> Pose | None:
        """The interpolated pose, or None outside the recording and inside its gaps."""
        poses = (buffer.interpolate(stamp_ns) for buffer in self._buffers)
        return next((pose for pose in poses if pose is not None), None)

    def why_none(self, images: Span, what: str) -> str:
        """Say why no image of this span has a pose; `what` is the name of these poses."""
        return describe_gap(images, self._span, what, self._max_gap_s)
