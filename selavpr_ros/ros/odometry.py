"""The odometry of the last minute; one thread fills it, another asks."""

from __future__ import annotations

import threading

import numpy as np
from nav_msgs.msg import Odometry

from selavpr_ros.pose import Pose, PoseBuffer
from selavpr_ros.ros.conversions import pose_from_message, stamp_to_ns

# Longer than any model takes for one image.
BUFFER_S = 60.0


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

    def put(self, message: Odometry) -> None:
        """Keep a message.

        Raises:
            PoseError: its pose holds NaN, infinity or no rotation.
        """
        pose = pose_from_message(message.pose.pose)
        with self._arrived:
            self.received += 1
            self.resets += self._buffer.add(stamp_to_ns(message.header.stamp), pose)
            self.frame_id = message.header.frame_id
            self.covariance = np.array(message.pose.covariance)
            self._arrived.notify_all()

    def wait_for(self, stamp_ns: int, timeout_s: float) -> Pose | None:
        """Wait for odometry that reaches a stamp; returns the pose there, or None if unknown."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._reaches(stamp_ns), timeout_s)
            return self._buffer.interpolate(stamp_ns)

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
