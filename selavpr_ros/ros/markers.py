"""The map and its edges as a few bounded markers for RViz."""

from __future__ import annotations

import threading
from collections import deque

from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from selavpr_ros.decision.gates import Candidate
from selavpr_ros.maps.keyframe import SessionId
from selavpr_ros.place_recognizer import Recognition
from selavpr_ros.pose import Pose
from selavpr_ros.ros.conversions import point_message

MAX_KEYFRAMES = 5000
MAX_CLOSURES = 1000
MAX_REJECTED = 50  # they show what happens now
GREY = ColorRGBA(r=0.6, g=0.6, b=0.6, a=1.0)
GREEN = ColorRGBA(r=0.1, g=0.8, b=0.1, a=1.0)
RED = ColorRGBA(r=0.9, g=0.1, b=0.1, a=0.5)


class MapMarkers:
    """Collects keyframes (grey), loop closures (green) and each query's rejected best (red).

    Each kind is one marker with its newest points: messages are bounded, and a late subscriber
    gets everything. The markers show one session; another one, or another map, has an odometry
    frame of its own, so they are cleared. One thread may add while another takes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keyframes: deque[Point] = deque(maxlen=MAX_KEYFRAMES)
        self._closures: deque[Point] = deque(maxlen=2 * MAX_CLOSURES)
        self._rejected: deque[Point] = deque(maxlen=2 * MAX_REJECTED)
        self._header = Header()
        self._session: SessionId | None = None
        self._changed = False

    def _begin(self, session: SessionId) -> None:
        if session == self._session:
            return
        drawn = [self._keyframes, self._closures, self._rejected]
        self._changed = self._changed or any(drawn)
        self._session = session
        for points in drawn:
            points.clear()

    def add(self, recognition: Recognition, header: Header) -> None:
        """Add the result of a query; `header` names the frame of the poses."""
        pose, candidates = recognition.query.pose, recognition.candidates
        with self._lock:
            self._begin(recognition.query.session)
            for closure in recognition.loop_closures:
                self._link(self._closures, closure.query.pose, closure.candidate, header)
            if pose and recognition.keyframe:
                self._keyframes.append(point_message(pose))
                self._header, self._changed = header, True
            if candidates and recognition.loop_closure is None:
                self._link(self._rejected, pose, candidates[0], header)

    def _link(
        self, edges: deque[Point], pose: Pose | None, candidate: Candidate, header: Header
    ) -> None:
        keyframe = candidate.match.keyframe
        there = keyframe.pose if keyframe.id.session == self._session else None
        if pose and there:
            edges.extend((point_message(pose), point_message(there)))
            self._header, self._changed = header, True

    def take_message(self, session: SessionId) -> MarkerArray | None:
        """All markers of the running session, or None if they have not changed."""
        with self._lock:
            self._begin(session)
            if not self._changed:
                return None
            self._changed = False
            return MarkerArray(markers=[
                self._marker('keyframes', Marker.SPHERE_LIST, self._keyframes, GREY, 0.15),
                self._marker('loop_closures', Marker.LINE_LIST, self._closures, GREEN, 0.05),
                self._marker('rejected', Marker.LINE_LIST, self._rejected, RED, 0.02),
            ])

    def _marker(
        self, namespace: str, kind: int, points: deque[Point], color: ColorRGBA, size_m: float
    ) -> Marker:
        marker = Marker(header=self._header, ns=namespace, type=kind, color=color)
        # RViz refuses a list marker without points.
        marker.action = Marker.ADD if points else Marker.DELETE
        marker.scale = Vector3(x=size_m, y=size_m, z=size_m)
        marker.pose.orientation.w = 1.0
        marker.points = list(points)
        return marker
