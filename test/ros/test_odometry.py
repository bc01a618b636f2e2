import threading

import numpy as np
import pytest
from live import SECOND
from nav_msgs.msg import Odometry

from selavpr_ros.errors import PoseError
from selavpr_ros.recordings.clocks import Span
from selavpr_ros.ros.conversions import ns_to_stamp
from selavpr_ros.ros.odometry import OdometryInbox


def message(stamp_ns, x_m):
    message = Odometry()
    message.header.stamp, message.header.frame_id = ns_to_stamp(stamp_ns), 'odom'
    message.pose.pose.position.x = x_m
    message.pose.pose.orientation.w = 1.0
    message.pose.covariance[0] = 0.5
    return message


def test_the_pose_is_interpolated_to_the_stamp():
    inbox = OdometryInbox()
    inbox.put(message(10 * SECOND, 1.0))
    inbox.put(message(10 * SECOND + 400_000_000, 2.0))
    pose = inbox.wait_for(10 * SECOND + 100_000_000, 0.0)
    assert pose.translation_m[0] == pytest.approx(1.25)
    assert (inbox.frame_id, inbox.received, inbox.resets) == ('odom', 2, 0)
    assert inbox.covariance[0] == 0.5


def test_an_image_waits_for_the_odometry_past_its_stamp():
    inbox, poses = OdometryInbox(), []
    inbox.put(message(10 * SECOND, 1.0))
    thread = threading.Thread(
        target=lambda: poses.append(inbox.wait_for(10 * SECOND + 100_000_000, 60.0)))
    thread.start()
    inbox.put(message(10 * SECOND + 200_000_000, 3.0))
    thread.join(60.0)
    assert poses[0].translation_m[0] == pytest.approx(2.0)


def test_the_wait_has_an_end():
    assert OdometryInbox().wait_for(SECOND, 0.01) is None


def test_a_pose_that_is_none_is_refused():
    inbox = OdometryInbox()
    with pytest.raises(PoseError, match='nan'):
        inbox.put(message(SECOND, np.nan))
    assert inbox.received == 0


def test_stamps_that_run_backwards_are_counted_and_forget_what_was_before():
    inbox = OdometryInbox()
    inbox.put(message(10 * SECOND, 1.0))
    inbox.put(message(5 * SECOND, 2.0))
    assert inbox.resets == 1
    assert inbox.wait_for(10 * SECOND, 0.0) is None


@pytest.mark.parametrize(('newest_s', 'kept'), [(99, False), (101, False), (11, True)])
def test_after_a_jump_of_the_images_only_poses_of_the_new_drive_count(newest_s, kept):
    inbox = OdometryInbox()
    inbox.put(message(newest_s * SECOND, 1.0))
    inbox.time_jumped(100 * SECOND, 10 * SECOND)
    assert (inbox.wait_for(newest_s * SECOND, 0.0) is not None) == kept


def test_an_image_waits_for_slow_odometry():
    """The next message comes after the usual interval, which is longer than the timeout."""
    inbox, poses = OdometryInbox(), []
    for second in (1, 2, 3):
        inbox.put(message(second * SECOND, float(second)))
    thread = threading.Thread(target=lambda: poses.append(
        inbox.wait_for(3 * SECOND + SECOND // 2, 0.0)))
    thread.start()
    inbox.put(message(4 * SECOND, 4.0))
    thread.join(60.0)
    assert poses[0].translation_m[0] == pytest.approx(3.5)
    assert inbox.wait_for(3 * SECOND + SECOND // 2, 0.0, 0.5) is None


@pytest.mark.parametrize(('stamps_s', 'words'), [
    ([], 'no odometry has come'),
    ([0, 0], 'the stamps of the odometry are all 0: the driver sets no stamps'),
    ([5, 6, 7], 'the images are from 1000.000 to 1010.000 s, the odometry from 5.000 to 7.000 s'),
    ([1000, 1001, 1002], 'the newest odometry is 8.00 s older than the image'),
    ([970, 985, 1000, 1015], 'odometry comes every 15 s, but poses are interpolated over at most '
                             '10 s: raise parameter pose_max_gap'),
    ([1000, 1020], 'the odometry has gaps')])
def test_why_images_have_no_pose(stamps_s, words):
    inbox = OdometryInbox()
    for second in stamps_s:
        inbox.put(message(second * SECOND, 1.0))
    assert words in inbox.why_unknown(Span(1000 * SECOND, 1010 * SECOND))
