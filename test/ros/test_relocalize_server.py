"""Relocalization over DDS: topics, action, and the service that waits for the outcome."""

from __future__ import annotations

import itertools
import threading

import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from live import SECOND, place, raw_message, send_places, wait_until
from rclpy.action import ActionClient
from rclpy.lifecycle import TransitionCallbackReturn
from std_srvs.srv import Trigger

from selavpr_msgs.action import Relocalize
from selavpr_msgs.msg import Relocalization
from selavpr_msgs.srv import StartSession
from selavpr_ros.matching.query import NO_CONTEXT
from selavpr_ros.ros.relocalize_server import _Search


@pytest.fixture
def moving(listener):
    """Shows place after place, a second apart by stamp, until the test ends."""
    stop, threads = threading.Event(), []

    def show(numbers, first_s=1000):
        def run():
            for count, number in enumerate(itertools.cycle(numbers)):
                if stop.wait(0.1):
                    return
                listener.send('/image', raw_message(place(number), (first_s + count) * SECOND))

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield show
    stop.set()
    for thread in threads:
        thread.join()


@pytest.fixture
def ask(listener):
    """(goal) -> handle of ~/relocalize, and the feedback as it comes."""
    client = ActionClient(listener.node, Relocalize, '/vpr/relocalize')
    feedback = []

    def send(**goal):
        wait_until(client.server_is_ready, 'the action server')
        future = client.send_goal_async(
            Relocalize.Goal(**goal), feedback_callback=lambda m: feedback.append(m.feedback))
        wait_until(future.done, 'an answer to the goal')
        return future.result()

    send.feedback = feedback
    yield send
    client.destroy()


def outcome(handle):
    """Status and result of an accepted goal."""
    future = handle.get_result_async()
    wait_until(future.done, 'the result')
    return future.result().status, future.result().result


@pytest.fixture
def found(listener):
    """Messages of ~/relocalization."""
    messages = []
    listener.node.create_subscription(
        Relocalization, '/vpr/relocalization', messages.append, 10)
    return messages


def test_accepted_candidates_of_another_session_relocalize(listener, eager, found):
    eager()
    send_places(listener, [1, 2, 3, 4])
    listener.call(StartSession, '/vpr/start_session', StartSession.Request())
    send_places(listener, [1, 2, 3, 4], first_s=100)
    wait_until(lambda: len(found) == 4, 'four messages')
    assert all(m.success for m in found)
    assert [m.frames_used for m in found] == [1, 2, 3, 4]
    last = found[-1]
    assert last.pose_source == Relocalization.POSE_NONE  # no odometry in this test
    assert (last.best.match.session_id, last.best.match.keyframe_id) == (1, 4)
    assert last.hypotheses == 1
    assert (last.pose.covariance.reshape(6, 6).diagonal() > 0.0).all()


def test_a_robot_that_was_carried_away_is_found_again(listener, eager, found):
    eager()
    send_places(listener, list(range(1, 17)))
    listener.call(StartSession, '/vpr/start_session', StartSession.Request())
    send_places(listener, [1, 2, 3, 13, 14, 15, 16], first_s=100)
    wait_until(lambda: len(found) >= 5 and found[-1].best.match.keyframe_id == 16, 'the new place')
    assert [m.best.match.keyframe_id for m in found[:3]] == [1, 2, 3]
    assert found[2].frames_used == 3
    # What the old place had gathered says nothing of the new one.
    assert found[-1].frames_used <= 3


def test_the_action_ends_when_the_robot_is_found(listener, eager, ask, moving):
    eager()
    send_places(listener, [1, 2, 3, 4, 5])
    listener.call(StartSession, '/vpr/start_session', StartSession.Request())
    moving([1, 2, 3, 4, 5])
    status, result = outcome(ask())
    assert status == GoalStatus.STATUS_SUCCEEDED, result.message
    assert result.relocalization.success
    assert result.relocalization.best.match.session_id == 1


def test_the_action_gives_up(listener, eager, ask, moving):
    eager(map__mode='localization')
    status, result = outcome(ask())
    assert status == GoalStatus.STATUS_ABORTED
    assert 'the map has no other session' in result.message
    assert not result.relocalization.success


def test_an_unknown_place_ends_after_the_frames_or_the_time(listener, eager, ask, moving):
    eager()
    send_places(listener, [1, 2, 3])
    listener.call(StartSession, '/vpr/start_session', StartSession.Request())
    status, result = outcome(ask(timeout=Duration(nanosec=300_000_000)))
    assert status == GoalStatus.STATUS_ABORTED
    assert 'no image was processed in 0.3 s' in result.message
    moving([21, 22, 23])
    status, result = outcome(ask(max_frames=3))
    assert (status, result.message) == (GoalStatus.STATUS_ABORTED, 'not found in 3 images')
    handle = ask()
    wait_until(lambda: ask.feedback[-1].frames >= 1, 'feedback')
    refused = ask()
    assert not refused.accepted
    wait_until(handle.cancel_goal_async().done, 'the cancellation')
    assert outcome(handle)[0] == GoalStatus.STATUS_CANCELED


def test_an_image_from_before_a_request_does_not_answer_it(eager):
    node = eager()
    server = node._configured.relocalize
    server._search = search = _Search(Relocalize.Goal(max_frames=1), node.executor)
    server.add(None, None)  # recognised while the request waits for the lock
    assert search.feedback.frames == 0
    assert server.narrow(NO_CONTEXT) is NO_CONTEXT
    server._search = None


def test_a_hint_needs_a_radius(listener, eager, ask):
    node = eager()
    send_places(listener, [1, 2])
    listener.call(StartSession, '/vpr/start_session', StartSession.Request())
    status, result = outcome(ask(use_hint=True))
    assert status == GoalStatus.STATUS_ABORTED
    assert 'a hint needs a radius' in result.message
    assert node._configured.relocalize.narrow(NO_CONTEXT) is NO_CONTEXT


def test_the_trigger_answers_after_the_outcome(listener, eager, moving):
    eager()
    send_places(listener, [1, 2, 3, 4, 5])
    listener.call(StartSession, '/vpr/start_session', StartSession.Request())
    moving([1, 2, 3, 4, 5])
    answer = listener.call(Trigger, '/vpr/trigger_relocalization', Trigger.Request())
    assert answer.success, answer.message
    assert ': at keyframe 1:' in answer.message


def test_an_inactive_node_says_so(listener, eager):
    node = eager()
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    answer = listener.call(Trigger, '/vpr/trigger_relocalization', Trigger.Request())
    assert (answer.success, answer.message) == (
        False, 'the node is not active: activate it first')
