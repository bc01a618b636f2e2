"""The action ~/relocalize, and ~/trigger_relocalization, which does the same as a service."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from selavpr_msgs.action import Relocalize
from selavpr_msgs.msg import Relocalization
from selavpr_ros.maps.keyframe import Hint
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.matching.query import Context
from selavpr_ros.place_recognizer import PlaceRecognizer, Recognition
from selavpr_ros.ros.conversions import Origin, match_message, relocalization_message

DEFAULT_TIMEOUT_S = 60.0
HINT_SIGMAS = 3.0
SUCCEEDED, CANCELED, ABORTED = 'succeeded', 'canceled', 'aborted'


class _Search:
    """One running request; the worker hands every query to it."""

    def __init__(self, goal: Relocalize.Goal, executor: Any) -> None:
        self.max_frames = goal.max_frames
        self.searched: KeyframeMap | None = None  # the map; None before the search begins
        self.hint: Hint | None = None  # in that map
        self.feedback = Relocalize.Feedback()
        self._executor = executor
        self.outcome = Future()

    def end(self, how: str, message: str, relocalization: Relocalization | None = None) -> None:
        """Set the outcome, unless there is one already."""
        if not self.outcome.done():
            result = Relocalize.Result(message=message)
            if relocalization:
                result.relocalization = relocalization
            self.outcome.set_result((how, result))
            self._executor.wake()

    def add(self, recognition: Recognition, origin: Origin) -> None:
        """Update the feedback with a query; it may be the end of the search."""
        feedback, found = self.feedback, recognition.relocalization
        feedback.frames += 1
        if recognition.candidates:
            feedback.has_best = True
            best = found.best if found else recognition.candidates[0]
            feedback.best = match_message(best, origin)
        if found:
            feedback.hypotheses = found.hypotheses
            self.end(SUCCEEDED, f'found after {feedback.frames} images',
                     relocalization_message(found, origin))
        if self.max_frames and feedback.frames >= self.max_frames:
            self.end(ABORTED, f'not found in {feedback.frames} images')


class RelocalizeServer:
    """Searches for the robot's place in other sessions on request; one request at a time.

    Args:
        node: offers action and service.
        recognizer: recognises places; its map holds the other sessions.
        lock: guards the recognizer and its map.
    """

    def __init__(self, node: Node, recognizer: PlaceRecognizer, lock: threading.Lock) -> None:
        self._node, self._recognizer, self._lock = node, recognizer, lock
        self._search: _Search | None = None
        self._goal_handle: Any = None
        self.is_active = False
        self._server = ActionServer(
            node, Relocalize, '~/relocalize', self._execute, goal_callback=self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT)
        # In a group of its own: a service that waits must not hold up the images.
        self._trigger = node.create_service(
            Trigger, '~/trigger_relocalization', self._on_trigger,
            callback_group=ReentrantCallbackGroup())

    def destroy(self) -> None:
        """Abort the running request, and destroy action and service."""
        self.stop('the node is cleaned up')
        self._server.destroy()
        self._node.destroy_service(self._trigger)

    def stop(self, why: str) -> None:
        """Abort the running request, if there is one."""
        if self._search:
            self._search.end(ABORTED, why)

    def add(self, recognition: Recognition, origin: Origin) -> None:
        """Hand a query to the running request; called by the worker."""
        search, handle = self._search, self._goal_handle
        if search is None or search.searched is None:  # this image came before the request
            return
        if handle and handle.is_cancel_requested:
            search.end(CANCELED, 'canceled')
            return
        search.add(recognition, origin)
        if handle and not search.outcome.done():
            handle.publish_feedback(search.feedback)

    def narrow(self, context: Context) -> Context:
        """While a request runs, restrict the search to other sessions and to its hint."""
        search = self._search
        if search is None or search.searched is not self._recognizer.keyframe_map:
            return context
        return replace(context, hint=search.hint, only_other_sessions=True)

    # ---- requests ------------------------------------------------------------------------------

    def _why_not(self) -> str:
        if not self.is_active:
            return 'the node is not active: activate it first'
        return 'another relocalization runs: cancel it first' if self._search else ''

    def _on_goal(self, _: Relocalize.Goal) -> GoalResponse:
        reason = self._why_not()
        if reason:
            self._node.get_logger().warning(f'relocalize: refused, {reason}')
        return GoalResponse.REJECT if reason else GoalResponse.ACCEPT

    async def _execute(self, goal_handle: Any) -> Relocalize.Result:
        self._goal_handle = goal_handle
        try:
            how, result = await self._run(goal_handle.request)
        finally:
            self._goal_handle = None
        {SUCCEEDED: goal_handle.succeed, CANCELED: goal_handle.canceled,
         ABORTED: goal_handle.abort}[how]()
        return result

    async def _on_trigger(self, _: Trigger.Request, response: Trigger.Response) -> Any:
        reason = self._why_not()
        if reason:
            response.message = reason
            return response
        how, result = await self._run(Relocalize.Goal())
        response.success, response.message = how == SUCCEEDED, result.message
        if response.success:
            place = result.relocalization.best.match
            response.message += f': at keyframe {place.session_id}:{place.keyframe_id}'
        return response

    # ---- one request ---------------------------------------------------------------------------

    async def _run(self, goal: Relocalize.Goal) -> tuple[str, Relocalize.Result]:
        search = self._search = _Search(goal, self._node.executor)
        timeout_s = goal.timeout.sec + goal.timeout.nanosec * 1e-9 or DEFAULT_TIMEOUT_S
        timer = self._node.create_timer(
            timeout_s, lambda: search.end(ABORTED, self._describe_timeout(search, timeout_s)),
            clock=Clock(clock_type=ClockType.STEADY_TIME))
        try:
            reason = self._begin(goal, search)
            if reason:
                search.end(ABORTED, reason)
            return await search.outcome
        finally:
            self._node.destroy_timer(timer)
            self._search = None

    def _begin(self, goal: Relocalize.Goal, search: _Search) -> str:
        """Start from nothing, or from a hint; returns why that is impossible, or nothing."""
        with self._lock:
            recognizer = self._recognizer
            if not recognizer.keyframe_map.has_other_sessions(recognizer.session):
                return 'the map has no other session: load one with map.path or ~/load_map'
            recognizer.restart_relocalization()
            search.searched = recognizer.keyframe_map
            if goal.use_hint:
                at, covariance = goal.hint.pose.pose.position, goal.hint.pose.covariance
                sigma = math.sqrt(max(covariance[0], covariance[7], 0.0))
                radius_m = goal.radius or HINT_SIGMAS * sigma
                if not radius_m > 0.0:
                    return 'a hint needs a radius, or a covariance that is not zero'
                position_m = np.array([at.x, at.y, at.z])
                if not np.isfinite([*position_m, radius_m]).all():
                    return f'the hint is not finite: {position_m.tolist()}, radius {radius_m}'
                search.hint = Hint(position_m, radius_m)
            return ''

    def _describe_timeout(self, search: _Search, timeout_s: float) -> str:
        frames = search.feedback.frames
        if not frames:
            return f'no image was processed in {timeout_s:g} s: see /diagnostics'
        return (f'not found in {timeout_s:g} s and {frames} images: the place may not be in the '
                'map, or the robot has to move, since only new views count')
