"""The thread that decodes and recognises; the executor only hands messages over to it."""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selavpr_ros.errors import ImageError, VprError
from selavpr_ros.matching.query import Context
from selavpr_ros.place_recognizer import PlaceRecognizer, Recognition
from selavpr_ros.pose import TIME_JUMP_NS, Pose
from selavpr_ros.recordings.clocks import Span
from selavpr_ros.ros.camera import CameraInbox
from selavpr_ros.ros.mailbox import Mailbox
from selavpr_ros.ros.odometry import OdometryInbox
from selavpr_ros.ros.statistics import INTERNAL_ERROR, Statistics, error_kind

# An age outside this range means that the stamps come from another clock: a recording that is
# played without /clock, or computers whose clocks differ. Such an age says nothing about delays.
PLAUSIBLE_AGE_S = (-1.0, 60.0)
OLD_IMAGE = 'old image'
ODOMETRY_JUMP = 'odometry jump'
NO_POSE = 'images without a pose'
NO_DEPTH = 'depth is not used'
# So many images in a row without a pose are no accident; the first ones may precede the odometry.
POSELESS = 5
# Stamps of replaced images that wait to be counted: minutes of a fast camera.
MAX_LOST = 10_000
# A slow model needs time for its last image; a thread that still runs would crash Python at exit.
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Arrival:
    """An image message and the time of its receipt.

    Attributes:
        message: sensor_msgs Image or CompressedImage.
        stamp_ns: header stamp.
        received_s: time of receipt, by time.monotonic().
        age_s: time from the stamp to the receipt, by the node's clock.
    """

    message: Any
    stamp_ns: int
    received_s: float
    age_s: float

    @property
    def age_is_plausible(self) -> bool:
        """Whether stamp and node seem to go by the same clock."""
        return PLAUSIBLE_AGE_S[0] <= self.age_s <= PLAUSIBLE_AGE_S[1]


Publish = Callable[[Arrival, Recognition], None]
Show = Callable[[Arrival, Recognition, np.ndarray], None]


class InferenceWorker:
    """Takes the newest image, finds its pose, recognises it, and hands the result over.

    Args:
        recognizer: recognises the images; its settings may be replaced at any time.
        read: turns an image message into (H, W, 3) uint8 RGB, or raises ImageError.
        odometry: source of the poses; None for images without poses.
        statistics: counts images and errors.
        publish: called with each result, in this thread, before the keyframe is written. The
            lock is held, so that it must not take it.
        camera: source of the calibration and the depth images for geometry.
        lock: guards the recognizer and its map; held while an image is recognised.
        log_warning, log_error: called with a text, in any thread.
        narrow: restricts an image's context to the search of a relocalization request.
        alive: whether ROS still runs; if not, an unexpected error ends the thread silently.
        show: called with result and image after the keyframe is written; must not raise.
    """

    def __init__(
        self, recognizer: PlaceRecognizer, read: Callable[[Any], np.ndarray],
        odometry: OdometryInbox | None, statistics: Statistics, publish: Publish, *,
        camera: CameraInbox, lock: threading.Lock,
        log_warning: Callable[[str], Any], log_error: Callable[[str], Any],
        narrow: Callable[[Context], Context] = lambda context: context,
        alive: Callable[[], bool] = lambda: True, show: Show | None = None,
    ) -> None:
        self._recognizer = recognizer
        self._read = read
        self._odometry = odometry
        self._statistics = statistics
        self._publish, self._show = publish, show
        self._camera = camera
        self._lock, self._narrow = lock, narrow
        self._log_warning, self._log_error = log_warning, log_error
        self._alive = alive
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._lost_ns: deque[int] = deque(maxlen=MAX_LOST)
        self._last_ns: int | None = None
        self._poseless: Span | None = None
        self._poseless_in_a_row = 0
        self._known_bugs: set[str] = set()
        self._thread = threading.Thread(target=self._run, name='vpr inference', daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the current image and end; a worker cannot be started again."""
        self._mailbox.close()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    def offer(self, arrival: Arrival) -> None:
        """Hand over an image, unless it is too old; it replaces one that still waits."""
        self._statistics.image_received(arrival.age_s, arrival.stamp_ns)
        max_age_s = self._recognizer.settings.image.max_age
        if max_age_s and arrival.age_is_plausible and arrival.age_s > max_age_s:
            self.report(OLD_IMAGE, f'it came {arrival.age_s:.2f} s after its stamp, more than '
                        f'image.max_age = {max_age_s:g}: a slow network, or a recent recording '
                        'that is played without use_sim_time')
            return
        lost = self._mailbox.put(arrival)
        if lost:
            self._lost_ns.append(lost.stamp_ns)

    def report(self, kind: str, text: str) -> None:
        """Count an error of an input, and log it unless one of its kind was just logged."""
        if self._statistics.failed(kind, text):
            self._log_warning(f'{kind}: {text}')

    def _run(self) -> None:
        while arrival := self._mailbox.take():
            self._count_lost()
            try:
                self._process(arrival)
            except VprError as error:
                self.report(error_kind(error), str(error))
            except Exception as error:
                if not self._alive():
                    return
                self._report_bug(error)

    def _count_lost(self) -> None:
        """Count replaced images: those that were due as dropped, the others as not due."""
        while self._lost_ns:
            due = self._recognizer.is_due(self._lost_ns.popleft())
            self._statistics.count('dropped' if due else 'not_due')

    def _process(self, arrival: Arrival) -> None:
        stamp_ns = arrival.stamp_ns
        # Odometry is waited for only if the image is due by its stamp alone.
        if not self._recognizer.is_due(stamp_ns):
            self._statistics.count('not_due')
            return
        pose = self._find_pose(stamp_ns)
        if not self._recognizer.is_due(stamp_ns, pose):
            self._statistics.count('not_due')
            return
        image = self._read(arrival.message)
        context = self._context(stamp_ns)
        with self._lock:
            recognition = self._recognizer.recognize(
                image, stamp_ns, pose, self._narrow(context),
                publish=lambda found: self._publish(arrival, found))
        if recognition.odometry_jump:
            self.report(ODOMETRY_JUMP, str(recognition.odometry_jump))
        if error := recognition.query.context.calibration_error:
            self.report(error_kind(error), str(error))
        if recognition.keyframe:
            self._statistics.wrote_keyframe(recognition.stage_ms[-1])
        if self._show:
            self._show(arrival, recognition, image)

    def _context(self, stamp_ns: int) -> Context:
        context = Context(camera=self._camera.camera, depth_m=self._find_depth(stamp_ns))
        if not (self._odometry and self._odometry.frame_id):
            return context
        return replace(context, pose_frame=self._odometry.frame_id,
                       pose_covariance=self._odometry.covariance)

    def _find_depth(self, stamp_ns: int) -> np.ndarray | None:
        try:
            return self._camera.depth_at(stamp_ns)
        except ImageError as error:
            self.report(NO_DEPTH, str(error))
            return None

    def _find_pose(self, stamp_ns: int) -> Pose | None:
        last_ns, self._last_ns = self._last_ns, stamp_ns
        if self._odometry is None:
            return None
        if last_ns is not None and last_ns - stamp_ns > TIME_JUMP_NS:
            self._odometry.time_jumped(last_ns, stamp_ns)
        settings = self._recognizer.settings
        pose = self._odometry.wait_for(stamp_ns, settings.pose_timeout, settings.pose_max_gap)
        self._note_pose(stamp_ns, pose)
        return pose

    def _note_pose(self, stamp_ns: int, pose: Pose | None) -> None:
        """Count an image without a pose, and say why several in a row have none."""
        assert self._odometry
        if pose:
            self._poseless, self._poseless_in_a_row = None, 0
            return
        self._statistics.count('without_pose')
        before = self._poseless or Span(stamp_ns, stamp_ns)
        self._poseless = before.with_stamp(stamp_ns)
        self._poseless_in_a_row += 1
        if self._poseless_in_a_row >= POSELESS:
            self.report(NO_POSE, self._odometry.why_unknown(self._poseless))

    def _report_bug(self, error: Exception) -> None:
        name = type(error).__name__
        self._statistics.failed(INTERNAL_ERROR, f'{name}: {error}')
        if name not in self._known_bugs:
            self._known_bugs.add(name)
            self._log_error(f'{INTERNAL_ERROR}, please report it: {traceback.format_exc()}')


def milliseconds_since(start_s: float) -> float:
    """Milliseconds since `start_s`, a time of time.monotonic()."""
    return (time.monotonic() - start_s) * 1e3
