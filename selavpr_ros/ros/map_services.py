"""The services of the map: save, load, sessions, poses, keyframes. Errors become answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from selavpr_msgs.msg import KeyframeId as KeyframeIdMessage
from selavpr_msgs.msg import KeyframePoses
from selavpr_msgs.srv import (
    AddExternalKeys,
    GetKeyframes,
    LoadMap,
    RemoveKeyframes,
    SaveMap,
    SetKeyframePoses,
    SetMode,
    StartSession,
)
from selavpr_ros.errors import MapError, PoseError, VprError
from selavpr_ros.maps.fleet.milvus_connection import is_address, without_secrets
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, MapPose
from selavpr_ros.maps.opening import open_map
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.ros.conversions import (
    MODES,
    id_from_message,
    keyframe_message,
    ns_to_stamp,
    pose_from_message,
)
from selavpr_ros.settings import replace_setting

MAX_LABEL = 1000

Answer = dict[str, Any]


def run_in_thread(node: Node, work: Callable[[], Answer]) -> Future:
    """Do slow work in a thread, so that the executor goes on; await the returned future."""
    future, executor = Future(), node.executor

    def run() -> None:
        future.set_result(_explain(work))
        executor.wake()

    threading.Thread(target=run, name='vpr service', daemon=True).start()
    return future


def _explain(work: Callable[[], Answer]) -> Answer:
    """The answer of `work`, or an answer that tells its error."""
    try:
        return {'success': True, **work()}
    except VprError as error:
        return {'success': False, 'message': str(error)}
    except Exception as error:  # it would end the executor
        return {'success': False, 'message': f'internal error, please report it: {error!r}'}


def _fill(response: Any, answer: Answer) -> Any:
    for name, value in answer.items():
        setattr(response, name, value)
    return response


class MapServices:
    """The map's services for back-ends and people; they exist while the node is configured.

    Args:
        node: offers the services.
        recognizer: owner of the map.
        lock: guards the recognizer and its map.
    """

    def __init__(self, node: Node, recognizer: PlaceRecognizer, lock: threading.Lock) -> None:
        self._node, self._recognizer, self._lock = node, recognizer, lock
        # In a group of their own: slow services must not hold up the images.
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(SaveMap, '~/save_map', self._save, callback_group=group),
            node.create_service(LoadMap, '~/load_map', self._load, callback_group=group)]
        for kind, name, work in (
            (Trigger, 'clear_map', self._clear),
            (StartSession, 'start_session', self._start_session),
            (RemoveKeyframes, 'remove_keyframes', self._remove),
            (SetMode, 'set_mode', self._set_mode),
            (SetKeyframePoses, 'set_keyframe_poses', lambda r: self._set_poses(r.poses)),
            (AddExternalKeys, 'add_external_keys', self._add_keys),
            (GetKeyframes, 'get_keyframes', self._get_keyframes),
        ):
            self._services.append(node.create_service(kind, f'~/{name}', self._locked(work)))
        self._poses = node.create_subscription(
            KeyframePoses, 'keyframe_poses', self._on_poses, QoSProfile(depth=1))

    def destroy(self) -> None:
        """Destroy the services and the subscription."""
        for service in self._services:
            self._node.destroy_service(service)
        self._node.destroy_subscription(self._poses)

    def _locked(self, work: Callable[[Any], Answer]) -> Callable[[Any, Any], Any]:
        def callback(request: Any, response: Any) -> Any:
            with self._lock:
                return _fill(response, _explain(lambda: work(request)))

        return callback

    # ---- whole maps ----------------------------------------------------------------------------

    async def _save(self, request: SaveMap.Request, response: SaveMap.Response) -> Any:
        """Save in a thread: meanwhile the map goes on growing, and the node recognising."""
        return _fill(response, await run_in_thread(self._node, lambda: self._save_now(request)))

    def _save_now(self, request: SaveMap.Request) -> Answer:
        left_out = {'local_features': not request.include_local,
                    'thumbnails': not request.include_thumbnails}
        keyframe_map = self._recognizer.keyframe_map
        with self._lock:
            keyframe_map.flush()
        nbytes = keyframe_map.save_to(
            _path(request.path), overwrite=request.overwrite,
            without=[table for table, out in left_out.items() if out])
        return {'keyframes': len(keyframe_map), 'bytes': nbytes,
                'message': f'saved {request.path}'}

    async def _load(self, request: LoadMap.Request, response: LoadMap.Response) -> Any:
        return _fill(response, await run_in_thread(self._node, lambda: self._load_now(request)))

    def _load_now(self, request: LoadMap.Request) -> Answer:
        if request.mode not in (LoadMap.Request.REPLACE, LoadMap.Request.READ_ONLY):
            raise MapError(f'mode {request.mode} is neither REPLACE (0) nor READ_ONLY (2)')
        recognizer = self._recognizer
        if is_address(request.path) and is_address(recognizer.settings.map.path):
            raise MapError('this node shares a map already: start it again with another map.path')
        path = request.path if is_address(request.path) else _path(request.path)
        if isinstance(path, Path) and not path.exists():
            raise MapError(f'{path}: there is no such map')
        settings = replace_setting(recognizer.settings, 'map.path', str(path))
        settings = replace_setting(
            settings, 'map.read_only', request.mode == LoadMap.Request.READ_ONLY)
        keyframe_map = open_map(
            settings, recognizer.model.model_id, recognizer.model.global_dim,
            allow_model_mismatch=request.allow_model_mismatch)
        with self._lock:
            before = recognizer.keyframe_map
            recognizer.adopt(keyframe_map)
            recognizer.settings = replace_setting(
                recognizer.settings, 'map.path', settings.map.path)
            before.close()
        return {'keyframes': len(keyframe_map), 'sessions': len(keyframe_map.sessions),
                'message': f'loaded {without_secrets(str(path))}'}

    def _clear(self, _: Trigger.Request) -> Answer:
        keyframe_map = self._recognizer.keyframe_map
        removed = keyframe_map.remove([keyframe.id for keyframe in keyframe_map])
        self._recognizer.start_session()
        return {'message': f'{removed} keyframes forgotten'}

    # ---- sessions and mode ---------------------------------------------------------------------

    def _start_session(self, request: StartSession.Request) -> Answer:
        if len(request.label) > MAX_LABEL:
            raise MapError(f'a label has {MAX_LABEL} letters at most, not {len(request.label)}')
        session_id = self._recognizer.start_session(request.label)
        return {'session_id': session_id, 'message': f'session {session_id} begins'}

    def _set_mode(self, request: SetMode.Request) -> Answer:
        names = {number: name for name, number in MODES.items()}
        if request.mode not in names:
            raise MapError(f'mode {request.mode} is neither MAPPING (0) nor LOCALIZATION (1)')
        parameter = Parameter('map.mode', value=names[request.mode])
        result = self._node.set_parameters([parameter])[0]
        if not result.successful:
            raise MapError(result.reason)
        return {'message': f'mode {names[request.mode]}'}

    # ---- keyframes -----------------------------------------------------------------------------

    def _find(self, messages: Iterable[KeyframeIdMessage]) -> list[KeyframeId]:
        """The ids that messages name; `keyframe_id` 0 names all keyframes of a session."""
        found: list[KeyframeId] = []
        for keyframe_id in map(id_from_message, messages):
            if keyframe_id.keyframe_id:
                found.append(keyframe_id)
            else:
                found += [keyframe.id for keyframe in self._recognizer.keyframe_map
                          if keyframe.id.session == keyframe_id.session]
        return found

    def _remove(self, request: RemoveKeyframes.Request) -> Answer:
        removed = self._recognizer.keyframe_map.remove(self._find(request.ids))
        return {'removed': removed, 'message': f'{removed} keyframes forgotten'}

    def _add_keys(self, request: AddExternalKeys.Request) -> Answer:
        keys = {id_from_message(message): message.external_key for message in request.ids}
        updated = self._recognizer.keyframe_map.set_external_keys(keys)
        return {'updated': updated, 'message': f'{updated} of {len(keys)} keyframes are known'}

    def _on_poses(self, message: KeyframePoses) -> None:
        with self._lock:
            answer = _explain(lambda: self._set_poses(message))
        if not answer['success']:
            self._node.get_logger().warning(f'keyframe_poses: {answer["message"]}')

    def _set_poses(self, message: KeyframePoses) -> Answer:
        if len(message.ids) != len(message.poses):
            raise PoseError(f'{len(message.ids)} ids, but {len(message.poses)} poses')
        if not message.header.frame_id:
            raise PoseError('header.frame_id is empty: poses need a frame, e.g. map')
        updated = self._recognizer.keyframe_map.set_map_poses({
            id_from_message(keyframe_id): MapPose(
                message.header.frame_id, pose_from_message(pose))
            for keyframe_id, pose in zip(message.ids, message.poses, strict=True)})
        return {'updated': updated,
                'message': f'{updated} of {len(message.ids)} keyframes are known'}

    def _get_keyframes(self, request: GetKeyframes.Request) -> Answer:
        keyframe_map = self._recognizer.keyframe_map
        keyframes = [keyframe_map[i] for i in self._find(request.ids)] or list(keyframe_map)
        if request.use_position:
            at = request.position
            place = np.array([at.x, at.y, at.z])
            keyframes = [k for k in keyframes if k.place and float(
                np.linalg.norm(k.place.translation_m - place)) <= request.radius]
        answer = {'keyframes': [self._describe(k) for k in keyframes],
                  'message': f'{len(keyframes)} keyframes'}
        if request.thumbnails:
            answer['thumbnails'] = [
                CompressedImage(format='jpeg', data=keyframe_map.thumbnail(k.id))
                for k in keyframes]
        return answer

    def _describe(self, keyframe: Keyframe) -> Any:
        keyframe_map = self._recognizer.keyframe_map
        covariance, external_key = keyframe_map.details(keyframe.id)
        is_own = keyframe.id.robot_id == self._recognizer.settings.robot_id
        moved, session = keyframe.map_pose, keyframe_map.sessions[keyframe.id.session]
        message = keyframe_message(
            keyframe, Header(stamp=ns_to_stamp(keyframe.stamp_ns)),
            moved.frame if moved else session.frame, None if moved else covariance,
            self._recognizer.settings.frames.camera if is_own else None)
        message.id.external_key = external_key
        return message


def _path(text: str) -> Path:
    if not text:
        raise MapError('path is empty: name a file, e.g. /home/robot/office.vprmap')
    return Path(text).expanduser()
