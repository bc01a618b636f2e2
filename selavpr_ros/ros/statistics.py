"""Counters and times of the node, shared by its two threads."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selavpr_ros.decision.gates import name_outcome
from selavpr_ros.errors import (
    CalibrationError,
    DescriptorError,
    ImageError,
    PoseError,
    StampError,
)
from selavpr_ros.place_recognizer import Recognition

WINDOW = 200  # how many of the newest samples percentiles and rates are made of
# After so many seconds an error is logged again, and the last one leaves the findings.
REPEAT_S = 10.0

ERROR_KINDS = {
    ImageError: 'bad image', DescriptorError: 'no descriptor', StampError: 'stamp out of order',
    PoseError: 'bad odometry pose', CalibrationError: 'camera_info is not used'}
INTERNAL_ERROR = 'internal error'


@dataclass(frozen=True)
class Failures:
    """All errors of one kind: number, text and time of the last one, time of the last log."""

    count: int
    last: str
    last_s: float
    logged_s: float


@dataclass(frozen=True)
class Snapshot:
    """The statistics at one moment; unknown times are NaN.

    Attributes:
        now_s: this moment, by the clock of the `Statistics`.
        counts: received, processed, dropped, not_due, without_pose, keyframes, ...
        verdicts: queries by 'ACCEPTED' or by the reason why none of their candidates was.
        failures: errors by kind.
        seconds_since_image: seconds since the last image was received.
        seconds_since_accept: seconds since the last loop closure.
        image_stamp_ns: stamp of the newest image; None before the first.
        image_age_s: age of the newest image at its receipt, by the node's clock.
        image_rate: images received per second.
        latency_p50_ms, latency_p95_ms: from receipt to published candidates.
        age_p95_ms: from the stamp to published candidates, by the node's clock.
        keyframe_p95_ms: to encode and write a keyframe, after that.
    """

    now_s: float
    counts: Counter[str]
    verdicts: Counter[str]
    failures: dict[str, Failures]
    seconds_since_image: float
    seconds_since_accept: float
    image_age_s: float
    image_rate: float
    latency_p50_ms: float
    latency_p95_ms: float
    age_p95_ms: float
    keyframe_p95_ms: float
    image_stamp_ns: int | None = None

    @property
    def news(self) -> dict[str, Failures]:
        """The kinds of errors of which one came in the last REPEAT_S seconds."""
        return {kind: failures for kind, failures in self.failures.items()
                if self.now_s - failures.last_s < REPEAT_S}


def error_kind(error: Exception) -> str:
    """The kind under which an error is counted."""
    kinds = (name for kind, name in ERROR_KINDS.items() if isinstance(error, kind))
    return next(kinds, INTERNAL_ERROR)


def percentile(values: deque[float], percent: float) -> float:
    """Percentile of the values; NaN if there are none."""
    return float(np.percentile(values, percent)) if values else float('nan')


def rate(times_s: deque[float]) -> float:
    """Events per second; NaN for fewer than two."""
    if len(times_s) < 2:
        return float('nan')
    return (len(times_s) - 1) / max(times_s[-1] - times_s[0], 1e-9)


class Statistics:
    """Counters that any thread may add to. `now_s` is a clock that never jumps."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()
        self._failures: dict[str, Failures] = {}
        self._image_times_s: deque[float] = deque(maxlen=WINDOW)
        self._latencies_ms: deque[float] = deque(maxlen=WINDOW)
        self._keyframes_ms: deque[float] = deque(maxlen=WINDOW)
        self._ages_ms: deque[float] = deque(maxlen=WINDOW)
        self._image_stamp_ns: int | None = None
        self._last_accept_s = self._image_age_s = float('nan')

    def count(self, name: str, number: int = 1) -> None:
        """Add to one of the counters."""
        with self._lock:
            self._counts[name] += number

    def image_received(self, age_s: float, stamp_ns: int | None = None) -> None:
        """Count an image, and note its time, its age in seconds at its receipt, and its stamp."""
        with self._lock:
            self._image_stamp_ns = stamp_ns
            self._counts['received'] += 1
            self._image_age_s = age_s
            self._image_times_s.append(self._now_s())

    def failed(self, kind: str, text: str) -> bool:
        """Count an error; returns whether it is to be logged: one of a kind every REPEAT_S."""
        with self._lock:
            now_s = self._now_s()
            before = self._failures.get(kind, Failures(0, '', now_s, -np.inf))
            due = now_s - before.logged_s >= REPEAT_S
            logged_s = now_s if due else before.logged_s
            self._failures[kind] = Failures(before.count + 1, text, now_s, logged_s)
            return due

    def recognized(self, recognition: Recognition, latency_ms: float, age_ms: float) -> None:
        """Count a processed image; an age of NaN is left out."""
        keyframe = recognition.keyframe
        answer = name_outcome(candidate.decision for candidate in recognition.candidates)
        with self._lock:
            self._counts['processed'] += 1
            self._verdicts[answer] += 1
            self._counts['loop_closures'] += len(recognition.loop_closures)
            self._latencies_ms.append(latency_ms)
            if age_ms == age_ms:
                self._ages_ms.append(age_ms)
            if recognition.loop_closures:
                self._last_accept_s = self._now_s()
            if keyframe:
                self._counts['keyframes_with_pose'] += keyframe.pose is not None

    def wrote_keyframe(self, keyframe_ms: float) -> None:
        """Note how long it took to encode and write a keyframe."""
        with self._lock:
            self._keyframes_ms.append(keyframe_ms)

    def snapshot(self) -> Snapshot:
        """A copy of the present figures."""
        with self._lock:
            now_s = self._now_s()
            last_image_s = self._image_times_s[-1] if self._image_times_s else float('nan')
            return Snapshot(
                now_s, Counter(self._counts), Counter(self._verdicts), dict(self._failures),
                now_s - last_image_s, now_s - self._last_accept_s, self._image_age_s,
                rate(self._image_times_s),
                percentile(self._latencies_ms, 50), percentile(self._latencies_ms, 95),
                percentile(self._ages_ms, 95), percentile(self._keyframes_ms, 95),
                self._image_stamp_ns)
