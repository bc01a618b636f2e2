"""The odometry of the last minute; one thread fills it, another asks."""

from __future__ import annotations

import threading

import numpy as np
from nav_msgs.msg import Odometry

from selavpr_ros.pose import MOST_GAP_S, Pose, PoseBuffer
from selavpr_ros.recordings.clocks import Span, why_apart
from selavpr_ros.ros.conversions import pose_from_message, stamp_to_ns

# Longer than any model takes for one image.
BUFFER_S = 60.0
# Odometry that comes less often than this is not waited for any longer.
MOST_WAIT_S = 2.0


class OdometryInbox:
    """Keeps odometry messages, and interpolates the pose at an image's stamp.

    Attributes:
        frame_id: odometry frame of the newest message; empty before the first.
        covariance: (36,) of the newest message, zeros before the first.
        received: number of messages kept.
        resets: how many times the stamps ran backwards.
    """

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._buffer = PoseBuffer(BUFFER_S)
        self.frame_id = ''
        self.covariance = np.zeros(36)
        self.received = self.resets = 0
        self._span: Span | None = None

    def put(self, message: Odometry) -> None:
        """Keep a message.

        Raises:
            PoseError: its pose holds NaN, infinity or no rotation.
        """
        pose = pose_from_message(message.pose.pose)
        with self._arrived:
            self.received += 1
            stamp_ns = stamp_to_ns(message.header.stamp)
            was_reset = self._buffer.add(stamp_ns, pose)
            self.resets += was_reset
            self._span = (Span(stamp_ns, stamp_ns) if was_reset or self._span is None
                          else self._span.with_stamp(stamp_ns))
            self.frame_id = message.header.frame_id
            self.covariance = np.array(message.pose.covariance)
            self._arrived.notify_all()

    def wait_for(
        self, stamp_ns: int, timeout_s: float, max_gap_s: float = 0.0
    ) -> Pose | None:
        """Wait for odometry that reaches a stamp; returns the pose there, or None if unknown.

        Args:
            stamp_ns: stamp of the image.
            timeout_s: to wait besides the usual interval between two messages.
            max_gap_s: longest gap between two messages that is interpolated; 0 follows their rate.
        """
        with self._arrived:
            wait_s = timeout_s + min(self._buffer.interval_s(), MOST_WAIT_S)
            self._arrived.wait_for(lambda: self._reaches(stamp_ns), wait_s)
            self._buffer.max_gap_s = max_gap_s
            return self._buffer.interpolate(stamp_ns)

    def why_unknown(self, images: Span) -> str:
        """Why these images have no pose, in a sentence."""
        with self._arrived:
            span, interval_s = self._span, self._buffer.interval_s()
            gap_s = self._buffer.max_gap_s or MOST_GAP_S
        if span is None:
            return ('no odometry has come: see the odometry topic, or set parameter pose_source '
                    'to none')
        if apart := why_apart(images, span, 'odometry'):
            return apart
        if interval_s > gap_s:
            return (f'odometry comes every {interval_s:.2g} s, but poses are interpolated over at '
                    f'most {gap_s:g} s: raise parameter pose_max_gap')
        late_s = (images.last_ns - span.last_ns) * 1e-9
        if late_s > 0.0:
            return (f'the newest odometry is {late_s:.2f} s older than the image: it stopped, or '
                    'it comes late; then raise parameter pose_timeout')
        return ('the odometry has gaps or jumps where the images are; parameter pose_max_gap is '
                'the longest gap')

    def time_jumped(self, before_ns: int, now_ns: int) -> None:
        """Forget the poses from before a jump of the images' stamps, from one stamp to another.

        The odometry may have jumped already: it is kept if its newest pose is nearer to `now_ns`.
        """
        with self._arrived:
            newest_ns = self._buffer.newest_ns
            if newest_ns and abs(newest_ns - before_ns) < abs(newest_ns - now_ns):
                self._buffer.clear()

    def _reaches(self, stamp_ns: int) -> bool:
        return self._buffer.newest_ns is not None and self._buffer.newest_ns >= stamp_ns
