"""The ROS node: images and odometry in, place recognition out."""

from __future__ import annotations

import math
import threading
import time
import traceback
from collections.abc import Iterable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from selavpr_msgs.msg import VprStatus
from selavpr_ros.errors import (
    CalibrationError,
    PoseError,
    SettingError,
    UncalibratedError,
    VprError,
)
from selavpr_ros.images.camera import is_rectified
from selavpr_ros.images.decoding import ImageReader
from selavpr_ros.maps.keyframe import SessionId
from selavpr_ros.maps.opening import open_map
from selavpr_ros.matching.geometry import PNP
from selavpr_ros.matching.query import Query
from selavpr_ros.models import load_from_settings, warm_up
from selavpr_ros.place_recognizer import PlaceRecognizer, Recognition
from selavpr_ros.ros import diagnostics, parameters
from selavpr_ros.ros.camera import CameraInbox
from selavpr_ros.ros.conversions import Origin, decode_with_fallback, stamp_to_ns
from selavpr_ros.ros.debug_image import DebugImage
from selavpr_ros.ros.diagnostics import Subscribed
from selavpr_ros.ros.map_services import MapServices
from selavpr_ros.ros.odometry import OdometryInbox
from selavpr_ros.ros.publications import Publications, reliable
from selavpr_ros.ros.relocalize_server import RelocalizeServer
from selavpr_ros.ros.statistics import Snapshot, Statistics, error_kind
from selavpr_ros.ros.subscriptions import Subscriptions
from selavpr_ros.ros.worker import Arrival, InferenceWorker, milliseconds_since
from selavpr_ros.settings import Settings

DISCOVERY_MS = 900.0
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class _Configured:
    """All that exists from configure to cleanup, the map included."""

    def __init__(self, node: VprNode, settings: Settings) -> None:
        self.read = ImageReader(
            settings.image, decode_with_fallback, node.resolve_topic_name('image'))
        model = load_from_settings(settings.model)
        warm_up(model, settings.model.warmup_iters)
        self.lock = threading.Lock()  # guards the recognizer and its map
        self.recognizer = PlaceRecognizer(model, settings, open_map(
            settings, model.model_id, model.global_dim))
        self.statistics = Statistics()
        self.odometry = OdometryInbox()
        self.camera = CameraInbox()
        self.calibration_error: CalibrationError | None = None  # of the newest result
        self._is_rectified = is_rectified(node.resolve_topic_name('image'))
        self.located_in: SessionId | None = None
        self.publications = Publications(node, model.model_id)
        self.debug_image = DebugImage(node, self.recognizer, self.lock)
        self.services = MapServices(node, self.recognizer, self.lock)
        self.relocalize = RelocalizeServer(node, self.recognizer, self.lock)

    def set_camera(self, message: CameraInfo) -> None:
        """Replace the calibration of the camera.

        Raises:
            CalibrationError: it cannot be used, although the settings ask for it or it is wrong.
        """
        settings = self.recognizer.settings
        if settings.image.rotate_deg:
            self.camera.error = UncalibratedError(
                'image.rotate_deg turns the images, and camera_info is for those that come')
            return
        try:
            self.camera.put_info(message, rectified=self._is_rectified)
        except UncalibratedError:
            if settings.verify.geometry == PNP:
                raise

    @property
    def camera_in_words(self) -> str:
        """Whether the camera's calibration is used, for people."""
        error = self.camera.error or self.calibration_error
        if error:
            return f'not used: {error}'
        return 'used' if self.camera.camera else 'none has come'

    def write_what_waits(self) -> None:
        """Write keyframes that a full disk left waiting, even if no image comes."""
        if self.recognizer.keyframe_map.unsaved and not self.lock.locked():
            # In a thread: it may take long, and must not hold up the executor.
            threading.Thread(target=self._flush, name='vpr flush', daemon=True).start()

    def _flush(self) -> None:
        with self.lock:
            self.recognizer.keyframe_map.flush()

    def free(self) -> None:
        """Destroy publishers, services and action, and close the map."""
        self.relocalize.destroy()
        self.services.destroy()
        self.debug_image.destroy()
        self.publications.destroy()
        self.close_map()

    def close_map(self) -> None:
        """Write and deliver keyframes as far as possible, and release the map's file."""
        with self.lock:
            self.recognizer.keyframe_map.close()


class _Active:
    """All that exists from activate to deactivate."""

    def __init__(self, node: VprNode, configured: _Configured) -> None:
        settings = configured.recognizer.settings
        logger = node.get_logger()
        odometry = configured.odometry if settings.pose_source == 'odom' else None
        self.subscriptions = Subscriptions(
            node, settings, node.on_image, node.on_odometry, node.on_camera,
            configured.camera.put_depth)
        self.worker = InferenceWorker(
            configured.recognizer, configured.read, odometry, configured.statistics,
            node.publish_result, camera=configured.camera, lock=configured.lock,
            narrow=configured.relocalize.narrow,
            alive=node.context.ok, log_warning=lambda text: logger.warning(text),
            log_error=lambda text: logger.error(text), show=configured.debug_image.show)
        self.worker.start()
        self.since_s = time.monotonic()
        self.introduced = False


class VprNode(LifecycleNode):
    """Lifecycle node `vpr`; see the table of parameters in config/vpr.yaml.

    Configure loads the model and the map, activate subscribes and recognises, deactivate pauses
    and keeps the map, cleanup frees everything.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('vpr', automatically_declare_parameters_from_overrides=True, **options)
        self.last_error = ''
        self._told_namesakes = False
        self._state = VprStatus.UNCONFIGURED
        self._configured: _Configured | None = None
        self._active: _Active | None = None
        for name in parameters.declare(self):
            self.get_logger().warning(f"there is no parameter '{name}': misspelt? It is ignored")
        self.add_on_set_parameters_callback(self._on_parameters)
        self._status = self.create_publisher(VprStatus, '~/status', reliable(1, latched=True))
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._timer = self._make_timer(Settings().status.period)

    @property
    def recognizer(self) -> PlaceRecognizer:
        """The method with its map; exists while the node is configured."""
        assert self._configured, 'the node is not configured'
        return self._configured.recognizer

    def autostart(self) -> None:
        """Configure and activate, unless parameter `autostart` is false or configuring fails."""
        wanted = self.get_parameter(parameters.AUTOSTART.name).value is True
        if wanted and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # ---- lifecycle -----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Check the parameters, load the model, announce the topics."""
        try:
            settings = parameters.read(self)
            self._configured = _Configured(self, settings)
        except VprError as error:
            return self._refuse(str(error))
        except Exception as error:  # rclpy would swallow it
            self.get_logger().error(traceback.format_exc())
            return self._refuse(f'{type(error).__name__}: {error}')
        parameters.tighten(self)
        self._set_period(settings.status.period)
        self._introduce_model(self._configured.recognizer)
        self.last_error = ''
        self._enter(VprStatus.INACTIVE)
        return SUCCESS

    def _introduce_model(self, recognizer: PlaceRecognizer) -> None:
        model, logger = recognizer.model, self.get_logger()
        logger.info(f'configured: model {model.model_id} on {diagnostics.describe_device(model)}')
        if recognizer.why_not_reranked:
            logger.info(f'candidates are not re-ranked: {recognizer.why_not_reranked}')
        settings = recognizer.settings
        if settings.frames.camera and settings.verify.geometry != 'pnp':
            logger.warning('frames.base_to_camera is not used: loop closures have a transform '
                           "only with verify.geometry 'pnp' and depth")
        if settings.frames.camera and settings.image.rotate_deg:
            logger.warning('frames.base_to_camera is not used: camera_info is not known for '
                           'images that image.rotate_deg turns')

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, and start to recognise."""
        assert self._configured
        try:
            self._active = _Active(self, self._configured)
        except Exception as error:  # e.g. an impossible qos_overrides.*; rclpy would swallow it
            self.last_error = f'{type(error).__name__}: {error}'
            self.get_logger().error(f'cannot activate: {self.last_error}')
            self._enter(VprStatus.INACTIVE)
            return FAILURE
        self.last_error = ''
        self._configured.relocalize.is_active = True
        self._enter(VprStatus.ACTIVE)
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Finish the current image, and stop; the map is kept."""
        self._stop()
        self._enter(VprStatus.INACTIVE)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model and the map."""
        self._free()
        self._enter(VprStatus.UNCONFIGURED)
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything for good."""
        self._free()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything, and report the error."""
        self._free()
        self.last_error = self.last_error or f'an unexpected error while {state.label}'
        self._enter(VprStatus.ERROR)
        return FAILURE

    def destroy_node(self) -> None:
        """Stop the worker before its publishers are destroyed, and close the map."""
        self._stop()
        if self._configured:
            self._configured.close_map()
        super().destroy_node()

    def _refuse(self, sentence: str) -> TransitionCallbackReturn:
        self.last_error = sentence
        self.get_logger().error(f'cannot configure: {sentence}')
        self._free()
        self._enter(VprStatus.UNCONFIGURED)
        return FAILURE

    def _stop(self) -> None:
        active, self._active = self._active, None
        if active:
            active.subscriptions.destroy()
            active.worker.stop()
        if self._configured:
            self._configured.relocalize.is_active = False
            self._configured.relocalize.stop('the node was deactivated')

    def _free(self) -> None:
        self._stop()
        configured, self._configured = self._configured, None
        if configured:
            configured.free()

    def _enter(self, state: int) -> None:
        self._state = state
        self._on_timer()

    def _set_period(self, period_s: float) -> None:
        self.destroy_timer(self._timer)
        self._timer = self._make_timer(period_s)

    def _make_timer(self, period_s: float) -> Any:
        # Not by ROS time: a missing /clock has to be reported, too.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        return self.create_timer(period_s, self._on_timer, clock=clock)

    # ---- callbacks -----------------------------------------------------------------------------

    def on_image(self, message: Any) -> None:
        """Hand an image over to the worker."""
        if self._active:
            received_s, now_ns = time.monotonic(), self.get_clock().now().nanoseconds
            stamp_ns = stamp_to_ns(message.header.stamp)
            age_s = (now_ns - stamp_ns) * 1e-9
            self._active.worker.offer(Arrival(message, stamp_ns, received_s, age_s))

    def on_odometry(self, message: Odometry) -> None:
        """Keep the pose of a message."""
        if self._active and self._configured:
            try:
                self._configured.odometry.put(message)
            except PoseError as error:
                self._active.worker.report(error_kind(error), str(error))

    def on_camera(self, message: CameraInfo) -> None:
        """Take over the camera's calibration."""
        if self._active and self._configured:
            try:
                self._configured.set_camera(message)
            except CalibrationError as error:
                self._active.worker.report(error_kind(error), str(error))

    def publish_result(self, arrival: Arrival, recognition: Recognition) -> None:
        """Publish, count and log the result of one image; called by the worker."""
        configured, now_ns = self._configured, self.get_clock().now().nanoseconds
        assert configured
        origin = self._origin(arrival.message.header, recognition.query)
        configured.publications.publish(recognition, origin, now_ns)
        configured.relocalize.add(recognition, origin)
        configured.calibration_error = recognition.query.context.calibration_error
        age_ms = (now_ns - arrival.stamp_ns) * 1e-6 if arrival.age_is_plausible else float('nan')
        configured.statistics.recognized(
            recognition, milliseconds_since(arrival.received_s), age_ms)
        self._log_closures(recognition, origin)
        self._log_relocalization(recognition, origin)

    def _origin(self, header: Header, query: Query) -> Origin:
        assert self._configured
        settings, context = self._configured.recognizer.in_force, query.context
        return Origin(
            header, query.session, settings.map.mode, context.pose_frame, settings.frames.map,
            context.pose_covariance, settings.frames.camera)

    def _log_closures(self, recognition: Recognition, origin: Origin) -> None:
        for closure in recognition.loop_closures:
            match = closure.candidate.match
            self.get_logger().info(
                f'loop closure {closure.keyframe_id or f"{origin.session}:-"} -> '
                f'{match.keyframe.id}: {match.local_matches} mutual matches, similarity '
                f'{match.similarity:.2f}, probability {closure.candidate.probability:.3f}')

    def _log_relocalization(self, recognition: Recognition, origin: Origin) -> None:
        """Log the first relocalization of each session."""
        assert self._configured
        found = recognition.relocalization
        if found and self._configured.located_in != origin.session:
            self._configured.located_in = origin.session
            where = 'at a keyframe without a pose'
            if found.pose:
                x_m, y_m, _ = found.pose.translation_m.tolist()
                where = (f'at x {x_m:.1f} m, y {y_m:.1f} m, heading '
                         f'{math.degrees(found.pose.yaw_rad):.0f} deg in frame '
                         f'{found.frame or origin.map_frame}')
            self.get_logger().info(
                f'relocalized in session {found.best.match.keyframe.id.session}, {where}')

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        configured = self._configured
        current = configured.recognizer.settings if configured else None
        try:
            settings = parameters.change(current, changed)
            if configured and settings:
                configured.recognizer.settings = settings
        except SettingError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    # ---- status --------------------------------------------------------------------------------

    def _on_timer(self) -> None:
        stamp = self.get_clock().now().to_msg()
        status = VprStatus(
            header=Header(stamp=stamp), state=self._state, last_error=self.last_error)
        array = DiagnosticArray(header=Header(stamp=stamp))
        if self._configured:
            seen = self._configured.statistics.snapshot()
            diagnostics.fill_status(status, self._configured.recognizer, seen)
            array.status = self._diagnose(self._configured, seen)
            self._configured.write_what_waits()
            self._configured.publications.publish_markers(self._configured.recognizer.session)
        else:
            array.status = [diagnostics.unconfigured_status(
                self.last_error, self.get_fully_qualified_name(), self._count_namesakes())]
        for diagnostic in array.status:
            diagnostic.hardware_id = self.get_fully_qualified_name()
        self._status.publish(status)
        self._diagnostics.publish(array)

    def _diagnose(self, configured: _Configured, seen: Snapshot) -> list[DiagnosticStatus]:
        recognizer, limits = configured.recognizer, configured.recognizer.settings.status
        odometry, now_ns = configured.odometry, self.get_clock().now().nanoseconds
        statuses = [
            diagnostics.model_status(
                recognizer.model, seen, limits.warn_latency_ms, self.get_fully_qualified_name(),
                self._count_namesakes()),
            diagnostics.map_status(recognizer, seen),
            diagnostics.matching_status(recognizer, seen),
            diagnostics.time_status(
                seen, recognizer.session.session_id, odometry.resets, now_ns,
                self.get_parameter('use_sim_time').value)]
        if self._active:
            topics = self._active.subscriptions.topics()
            self._introduce(self._active, topics)
            statuses.insert(0, diagnostics.input_status(
                seen, topics, odometry.received, limits.warn_image_gap,
                configured.camera_in_words))
        return statuses

    def _count_namesakes(self) -> int:
        """How many nodes have the name of this one, itself included."""
        own = self.get_name(), self.get_namespace()
        # By what they publish: the graph keeps the name of a node that is gone for a while.
        count = sum((info.node_name, info.node_namespace) == own for info in
                    self.get_publishers_info_by_topic(self._status.topic_name))
        if count > 1 and not self._told_namesakes:
            self.get_logger().error(diagnostics.namesakes(self.get_fully_qualified_name(), count))
        self._told_namesakes = count > 1
        return count

    def _introduce(self, active: _Active, topics: Iterable[Subscribed]) -> None:
        """Log the subscribed topics once, when discovery has had time to find the publishers."""
        if not active.introduced and milliseconds_since(active.since_s) > DISCOVERY_MS:
            active.introduced = True
            names = ' and '.join(str(topic) for topic in topics if topic.is_needed)
            self.get_logger().info(f'listening to {names}')
