import threading

import numpy as np
import pytest
from live import SECOND
from nav_msgs.msg import Odometry

from selavpr_ros.errors import PoseError
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
