"""The worker alone: no DDS, no model, and every wait is on a condition."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from live import SECOND, wait_until

from selavpr_ros.errors import ImageError
from selavpr_ros.matching.query import NO_CONTEXT
from selavpr_ros.pose import Pose
from selavpr_ros.ros.camera import CameraInbox
from selavpr_ros.ros.statistics import Statistics
from selavpr_ros.ros.worker import Arrival, InferenceWorker
from selavpr_ros.settings import Settings, make_settings


class Recognizer:
    """Takes as long as it is told, and remembers what it was asked."""

    def __init__(self, settings):
        self.settings, self.asked = settings, []
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()
        self.go_on.set()

    def is_due(self, stamp_ns, pose=None):
        return not self.asked or stamp_ns - self.asked[-1][0] >= SECOND // 2

    def recognize(self, image, stamp_ns, pose, context, publish):
        self.entered.release()
        assert self.go_on.wait(60.0)
        self.asked.append((stamp_ns, pose))
        if image is None:
            raise RuntimeError('a bug')
        publish(None)
        return SimpleNamespace(keyframe=True, stage_ms=(1.0, 7.0), odometry_jump=None,
                               query=SimpleNamespace(context=NO_CONTEXT))


class Odometry:
    """The pose at any time; notes jumps."""

    frame_id, covariance = 'odom', np.zeros(36)

    def __init__(self):
        self.jumps = []

    def wait_for(self, stamp_ns, timeout_s, max_gap_s):
        return Pose.planar(stamp_ns * 1e-9, 0.0, 0.0)

    def time_jumped(self, before_ns, now_ns):
        self.jumps.append((before_ns, now_ns))


@pytest.fixture
def bench():
    """A worker with all that it needs, as attributes of one object."""
    class Bench:
        def __init__(self):
            self.recognizer, self.odometry = Recognizer(Settings()), Odometry()
            self.statistics, self.done = Statistics(), []
            self.warnings, self.errors, self.alive = [], [], True
            self.worker = InferenceWorker(
                self.recognizer, self.read, self.odometry, self.statistics,
                lambda arrival, recognition: self.done.append(arrival.stamp_ns),
                camera=CameraInbox(), lock=threading.Lock(), log_warning=self.warnings.append,
                log_error=self.errors.append, alive=lambda: self.alive)
            self.worker.start()

        def read(self, message):
            if message == 'bad':
                raise ImageError('no picture')
            return None if message == 'bug' else np.zeros((2, 2, 3), np.uint8)

        def offer(self, seconds, message='good', age_s=0.0):
            self.worker.offer(Arrival(message, round(seconds * SECOND), 0.0, age_s))

        def count(self, name):
            return self.statistics.snapshot().counts[name]

        def failures(self, kind):
            found = self.statistics.snapshot().failures.get(kind)
            return found.count if found else 0

    bench = Bench()
    yield bench
    bench.recognizer.go_on.set()
    bench.worker.stop()


def test_an_image_gets_its_pose_and_is_handed_over(bench):
    bench.offer(3)
    wait_until(lambda: bench.done == [3 * SECOND], 'the result')
    assert bench.recognizer.asked[0][1] == Pose.planar(3.0, 0.0, 0.0)
    wait_until(lambda: bench.statistics.snapshot().keyframe_p95_ms == 7.0, 'the time of writing')


def test_while_it_is_busy_only_the_newest_image_is_kept(bench):
    bench.recognizer.go_on.clear()
    bench.offer(1)
    assert bench.recognizer.entered.acquire(timeout=60.0)
    for seconds in (1.1, 1.2, 2, 3, 4):  # the first two would not be due
        bench.offer(seconds)
    bench.recognizer.go_on.set()
    wait_until(lambda: len(bench.done) == 2, 'both results')
    assert bench.done == [SECOND, 4 * SECOND]
    assert (bench.count('received'), bench.count('dropped'), bench.count('not_due')) == (6, 2, 2)


def test_an_image_that_is_not_due_costs_nothing(bench):
    bench.offer(1)
    wait_until(lambda: bench.done, 'the result')
    bench.offer(1.2, 'bad')
    wait_until(lambda: bench.count('not_due') == 1, 'the count')
    assert bench.failures('bad image') == 0


def test_errors_are_counted_told_once_and_survived(bench):
    for seconds in range(1, 4):
        bench.offer(seconds, 'bad')
        wait_until(lambda n=seconds: bench.failures('bad image') == n, 'the count')
    for seconds in range(4, 6):
        bench.offer(seconds, 'bug')
        wait_until(lambda n=seconds: bench.failures('internal error') == n - 3, 'the count')
    bench.offer(9)
    wait_until(lambda: bench.done == [9 * SECOND], 'a good one')
    assert bench.warnings == ['bad image: no picture']
    assert len(bench.errors) == 1
    assert 'RuntimeError: a bug' in bench.errors[0]
    assert 'Traceback' in bench.errors[0]


def test_a_jump_back_is_told_to_the_odometry(bench):
    for seconds in (100, 100.6, 5):
        bench.offer(seconds)
        wait_until(lambda s=seconds: bench.count('received') and (
            round(s * SECOND) in bench.done or s == 5), 'the result')
    wait_until(lambda: bench.count('not_due') == 1, 'the judgement of this recognizer')
    bench.recognizer.asked.clear()
    bench.offer(5)
    wait_until(lambda: bench.odometry.jumps == [(100_600_000_000, 5 * SECOND)], 'the jump')


@pytest.mark.parametrize(('age_s', 'dropped'), [
    (0.4, False), (0.6, True), (59.0, True), (61.0, False), (1e8, False), (-2.0, False)])
def test_old_images_are_dropped_where_the_age_makes_sense(bench, age_s, dropped):
    bench.offer(1, age_s=age_s)
    wait_until(lambda: bench.failures('old image') or bench.done, 'either')
    assert bench.failures('old image') == dropped
    if dropped:
        assert f'{age_s:.2f} s after its stamp, more than image.max_age = 0.5' in bench.warnings[0]


def test_the_age_may_be_ignored(bench):
    bench.recognizer.settings = make_settings({'image.max_age': 0.0})
    bench.offer(1, age_s=30.0)
    wait_until(lambda: bench.done, 'the result')


def test_no_error_is_news_while_ros_shuts_down(bench):
    bench.alive = False
    bench.offer(1, 'bug')
    bench.worker.stop()
    assert bench.errors == []
    assert bench.failures('internal error') == 0


def test_stop_waits_for_the_image_at_hand(bench):
    bench.recognizer.go_on.clear()
    bench.offer(1)
    assert bench.recognizer.entered.acquire(timeout=60.0)
    threading.Timer(0.05, bench.recognizer.go_on.set).start()
    bench.worker.stop()
    assert bench.done == [SECOND]
