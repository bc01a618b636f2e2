"""Statistics as diagnostics and as status: the answer to "why is there no loop closure?"."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from selavpr_msgs.msg import VprStatus
from selavpr_ros.decision.gates import WHY
from selavpr_ros.maps.fleet.milvus_connection import without_secrets
from selavpr_ros.maps.keyframe_map import REJECT_NEW
from selavpr_ros.models import VprModel
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.ros.conversions import MODES
from selavpr_ros.ros.statistics import INTERNAL_ERROR, Snapshot
from selavpr_ros.ros.worker import OLD_IMAGE, PLAUSIBLE_AGE_S

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
ERROR_AFTER_GAPS = 10  # a gap of this many times status.warn_image_gap is an error
# What a subscribed topic is for; its publishers' types are compared with these.
IMAGE, ODOMETRY, CAMERA_INFO, DEPTH = 'image', 'odometry', 'camera_info', 'depth'
IMAGE_TYPE = 'sensor_msgs/msg/Image'
COMPRESSED_TYPE = 'sensor_msgs/msg/CompressedImage'
REMAP = {
    IMAGE: "remap image to the camera's images",
    ODOMETRY: 'remap odom to a topic of nav_msgs/msg/Odometry, or set parameter pose_source to '
              'none',
    CAMERA_INFO: 'remap camera_info to the sensor_msgs/msg/CameraInfo of the images',
    DEPTH: 'remap depth to raw depth images, 16UC1 or 32FC1'}
PRECISIONS = {torch.float32: 'fp32', torch.float16: 'fp16', torch.bfloat16: 'bf16'}


@dataclass(frozen=True)
class Publisher:
    """One publisher on a topic, as the graph knows it."""

    topic_type: str
    reliability: str


@dataclass(frozen=True)
class Subscribed:
    """A topic that the node subscribes to: its type, quality of service and publishers.

    `name` is what the topic is for, a key of REMAP; `is_needed` whether it has to be published.
    """

    topic: str
    topic_type: str
    reliability: str
    publishers: Sequence[Publisher]
    name: str = IMAGE
    is_needed: bool = True

    def __str__(self) -> str:
        count = len(self.publishers)
        return f'{self.topic} ({self.topic_type}, {count} publisher{"" if count == 1 else "s"})'

    @property
    def mismatch(self) -> str:
        """Why messages of a publisher cannot arrive; empty if they can."""
        if not self.publishers:
            return f'{self.topic} has no publisher: {REMAP[self.name]}' if self.is_needed else ''
        types = sorted({p.topic_type for p in self.publishers} - {self.topic_type})
        if types:
            return (f'{self.topic} carries {", ".join(types)}, but {self.topic_type} is '
                    f'subscribed: {self._advice(types)}')
        if self.reliability == 'reliable' and any(
                p.reliability == 'best_effort' for p in self.publishers):
            parameter = ('qos.image_reliability' if self.name == IMAGE
                         else f'qos_overrides.{self.topic}.subscription.reliability')
            return (f'{self.topic} is published best effort, but subscribed reliable: set '
                    f'parameter {parameter} to best_effort')
        return ''

    def _advice(self, types: Sequence[str]) -> str:
        """What to do about publishers of other types."""
        if self.name != IMAGE or not {IMAGE_TYPE, COMPRESSED_TYPE} & set(types):
            return REMAP[self.name]
        if self.topic_type == COMPRESSED_TYPE:
            return f'set parameter image_transport to raw, and remap image to {self.topic}'
        if self.topic.endswith('/compressed'):
            return ('set parameter image_transport to compressed, and remap image to '
                    + self.topic.removesuffix('/compressed'))
        return ('set parameter image_transport to compressed, and remap '
                f'{self.topic}/compressed to {self.topic}')


Finding = tuple[bytes, str]


def _joined(findings: Iterable[Finding], fine: str) -> Finding:
    """All findings in one, at the highest level, the worst first; OK and `fine` without any."""
    by_level = sorted(findings, key=lambda finding: finding[0], reverse=True)
    texts = dict.fromkeys(text for _, text in by_level)
    return (by_level[0][0], '; '.join(texts)) if by_level else (OK, fine)


def _status(name: str, finding: Finding, values: dict[str, Any]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=_text(value)) for key, value in values.items()]
    return DiagnosticStatus(
        name=f'vpr: {name}', level=finding[0], message=finding[1], values=pairs)


def _text(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def describe_device(model: VprModel) -> str:
    """'cpu', or 'cuda:0 (name of the GPU)'."""
    device = model.device
    if device.type != 'cuda':
        return str(device)
    return f'{device} ({torch.cuda.get_device_name(device)})'


# ---- the five diagnostics ----------------------------------------------------------------------


def _gap(seconds: float, warn_s: float) -> list[Finding]:
    if not seconds > warn_s:
        return []
    level = ERROR if seconds > ERROR_AFTER_GAPS * warn_s else WARN
    return [(level, f'no image for {seconds:.1f} s')]


def input_status(
    seen: Snapshot, topics: Sequence[Subscribed], odometry_received: int, warn_image_gap: float,
    camera: str = '',
) -> DiagnosticStatus:
    """Whether images arrive, and what was wrong with those that could not be used.

    Args:
        seen: the statistics.
        topics: the subscribed ones, that of the images first.
        odometry_received: number of odometry messages.
        warn_image_gap: seconds without an image.
        camera: what is known of the camera, in words.
    """
    image = topics[0]
    findings = [(WARN, topic.mismatch) for topic in topics if topic.mismatch]
    findings += [(WARN, f'{kind}: {failures.last}') for kind, failures in seen.news.items()]
    findings += _gap(seen.seconds_since_image, warn_image_gap)
    if not seen.counts['received'] and not image.mismatch:
        findings.append((WARN, f'no image yet on {image.topic}'))
    values: dict[str, Any] = {}
    for topic in topics:
        values[f'{topic.name} topic'] = topic
        values[f'{topic.name} publishers'] = ', '.join(
            f'{p.topic_type} {p.reliability}' for p in topic.publishers) or 'none'
    values |= {'image rate (Hz)': seen.image_rate, 'last image (s ago)': seen.seconds_since_image}
    for name in ('received', 'processed', 'not_due', 'dropped', 'without_pose'):
        values[f'images {name}'.replace('_', ' ')] = seen.counts[name]
    if any(topic.name == ODOMETRY for topic in topics):
        values['odometry received'] = odometry_received
    if camera:
        values['camera_info'] = camera
    for kind, failures in seen.failures.items():
        values[f'{kind}: count'] = failures.count
        values[f'{kind}: last'] = failures.last
    return _status('Input', _joined(findings, f'{seen.counts["received"]} images'), values)


def namesakes(name: str, count: int) -> str:
    """What is wrong where several nodes have one name; empty if it is one."""
    if count < 2:
        return ''
    return (f'{count} nodes are called {name}, so that their topics, services and ids of '
            'keyframes are mixed up: end one of them, or give it another name or namespace, and '
            'another robot_id')


def model_status(
    model: VprModel, seen: Snapshot, warn_latency_ms: float, name: str = '', nodes: int = 1
) -> DiagnosticStatus:
    """Which model runs where, and how fast, and whether it is the only node of its name.

    Args:
        model, seen: the model and the statistics.
        warn_latency_ms: a 95th percentile above it is a warning.
        name: of the node.
        nodes: how many nodes have that name.
    """
    findings: list[Finding] = []
    if nodes > 1:
        findings.append((ERROR, namesakes(name, nodes)))
    if seen.latency_p95_ms > warn_latency_ms:
        findings.append((WARN, f'slow: one query in twenty takes over {seen.latency_p95_ms:.0f} '
                         f'ms; status.warn_latency_ms is {warn_latency_ms:g}'))
    if INTERNAL_ERROR in seen.failures:
        findings.append((ERROR, f'{INTERNAL_ERROR}: {seen.failures[INTERNAL_ERROR].last}'))
    values: dict[str, Any] = {
        'model id': model.model_id, 'device': describe_device(model),
        'precision': PRECISIONS[model.dtype], 'image size': 'x'.join(map(str, model.image_size)),
        'latency p50 (ms)': seen.latency_p50_ms, 'latency p95 (ms)': seen.latency_p95_ms}
    if model.device.type == 'cuda':
        values['GPU memory (bytes)'] = torch.cuda.memory_allocated(model.device)
    fine = f'{model.model_id} on {describe_device(model)}'
    return _status('Model', _joined(findings, fine), values)


def map_status(recognizer: PlaceRecognizer, seen: Snapshot) -> DiagnosticStatus:
    """How large the map is, and whether it still grows."""
    keyframe_map, settings = recognizer.keyframe_map, recognizer.settings.map
    keyframes, findings = len(keyframe_map), []
    if keyframe_map.store_error:
        findings.append((ERROR, f'{keyframe_map.store_error}; {keyframe_map.unsaved} keyframes '
                         'wait in memory until the file can be written'))
    if keyframe_map.shared_error:
        findings.append((WARN, f'{keyframe_map.shared_error}; {keyframe_map.undelivered} '
                         'keyframes are delivered as soon as the server answers'))
    if keyframe_map.shared_error and keyframes >= settings.max_keyframes:
        findings.append((WARN, f'full: {keyframes} keyframes, and none is deleted before the '
                         'server has it'))
    if keyframe_map.why_closed and settings.mode == 'mapping':
        findings.append((WARN, f'no keyframe is added: {keyframe_map.why_closed}'))
    if keyframes >= settings.max_keyframes and settings.eviction == REJECT_NEW:
        findings.append((WARN, f'full: {keyframes} keyframes, map.max_keyframes is '
                         f'{settings.max_keyframes}'))
    return _status('Map', _joined(findings, f'{keyframes} keyframes'), {
        'keyframes': keyframes, 'sessions': len(keyframe_map.sessions),
        'file': without_secrets(settings.path) or 'none', 'mode': settings.mode,
        'bytes': keyframe_map.nbytes, 'unsaved keyframes': keyframe_map.unsaved,
        'undelivered keyframes': keyframe_map.undelivered,
        'keyframes with local features': keyframe_map.keyframes_with_local,
        'codec of local features': recognizer.codec,
        'to encode and write a keyframe, p95 (ms)': seen.keyframe_p95_ms,
        'keyframes with a pose': seen.counts['keyframes_with_pose']})


def matching_status(recognizer: PlaceRecognizer, seen: Snapshot) -> DiagnosticStatus:
    """How many queries were accepted, and how many were stopped by each gate."""
    values: dict[str, Any] = {'queries': seen.counts['processed'],
                              'ACCEPTED': seen.verdicts['ACCEPTED']}
    values |= {f'{name}: {why}': seen.verdicts[name] for name, why in WHY.items()}
    values['last loop closure (s ago)'] = seen.seconds_since_accept
    values['re-ranking'] = recognizer.why_not_reranked or 'mutual matches of local features'
    values['geometry'] = recognizer.why_not_verified or recognizer.settings.verify.geometry
    known = recognizer.unrelated
    values['queries that unrelated images were learned from'] = round(known.queries)
    values['score of unrelated images'] = known.level
    values['score of unrelated images: deviation as a share of it'] = math.sqrt(known.within.mean)
    fine = f'{seen.counts["processed"]} queries, {seen.counts["loop_closures"]} loop closures'
    return _status('Matching', (OK, fine), values)


def time_status(
    seen: Snapshot, session_id: int, odometry_resets: int, now_ns: int, use_sim_time: bool
) -> DiagnosticStatus:
    """Whether the image stamps fit the node's clock, and whether odometry stamps increase."""
    findings: list[Finding] = []
    if use_sim_time and now_ns == 0:
        findings.append((ERROR, 'use_sim_time is on, but /clock has no publisher'))
    elif seen.image_stamp_ns == 0:
        findings.append((WARN, 'image stamps are 0: the driver sets no stamps'))
    elif not math.isnan(seen.image_age_s) and not (
            PLAUSIBLE_AGE_S[0] <= seen.image_age_s <= PLAUSIBLE_AGE_S[1]):
        findings.append((WARN, f'image stamps are {seen.image_age_s:.1f} s behind the clock of '
                         'this node, so image.max_age is not applied: a recording that is played '
                         'needs use_sim_time and /clock'))
    elif OLD_IMAGE in seen.news:
        findings.append((WARN, f'{OLD_IMAGE}: {seen.news[OLD_IMAGE].last}'))
    return _status('Time', _joined(findings, 'stamps fit the clock'), {
        'age of the newest image (s)': seen.image_age_s,
        'age p95 when published (ms)': seen.age_p95_ms, 'session': session_id,
        'times that odometry stamps ran backwards': odometry_resets, 'use_sim_time': use_sim_time})


def unconfigured_status(last_error: str, name: str = '', nodes: int = 1) -> DiagnosticStatus:
    """The only diagnostic of a node that is not configured: why it is not, if that is known."""
    finding = (ERROR, last_error) if last_error else (WARN, 'not configured')
    findings = [finding] + ([(ERROR, namesakes(name, nodes))] if nodes > 1 else [])
    return _status('Model', _joined(findings, ''), {})


# ---- ~/status ----------------------------------------------------------------------------------


def fill_status(
    message: VprStatus, recognizer: PlaceRecognizer, seen: Snapshot
) -> VprStatus:
    """Write the figures of a configured node into `message`, and return it."""
    model, counts, keyframe_map = recognizer.model, seen.counts, recognizer.keyframe_map
    message.model_id, message.device = model.model_id, describe_device(model)
    message.precision = PRECISIONS[model.dtype]
    message.why_not_reranked = recognizer.why_not_reranked
    known = recognizer.unrelated
    message.unrelated_queries, message.unrelated_score = known.queries, known.level
    message.unrelated_deviation = math.sqrt(known.within.mean)
    message.keyframes = len(keyframe_map)
    message.keyframes_with_local = keyframe_map.keyframes_with_local
    message.keyframes_unsaved = keyframe_map.unsaved
    sessions = keyframe_map.sessions
    message.sessions = len(sessions) + (recognizer.session not in sessions)
    message.map_path = without_secrets(recognizer.settings.map.path)
    message.map_error = keyframe_map.store_error
    message.keyframes_undelivered = keyframe_map.undelivered
    message.shared_map_error = keyframe_map.shared_error
    message.map_bytes_ram = keyframe_map.nbytes
    message.mode = MODES[recognizer.settings.map.mode]
    message.frames_received = counts['received']
    message.frames_processed = counts['processed']
    message.frames_dropped = counts['dropped']
    message.latency_p50_ms, message.latency_p95_ms = seen.latency_p50_ms, seen.latency_p95_ms
    message.image_age_p95_ms = seen.age_p95_ms
    message.seconds_since_image = seen.seconds_since_image
    message.seconds_since_accept = seen.seconds_since_accept
    return message
