"""Every setting once: name, default, range, unit and reason.

The ROS parameters and the command line's `--set` are made from these classes; `make params`
writes `config/vpr.yaml` and `docs/parameters.md`. A description stands alone, as `ros2 param
describe` shows it: what the setting is, its unit, and when to change it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from selavpr_ros.errors import PoseError, SettingError
from selavpr_ros.pose import Pose
from selavpr_ros.text import nearest

# ROS wants both ends of a range; this one fits its whole numbers, too.
NO_LIMIT = 2**31 - 1
KINDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a text'}
SWITCHES = {'true': True, 'yes': True, 'on': True, '1': True,
            'false': False, 'no': False, 'off': False, '0': False}
# How local features are kept, see `maps/local_codec.py`.
CODECS = ('none', 'float16', 'int8', 'binary')

Value = bool | int | float | str | tuple[int, ...] | tuple[float, ...]


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _read_switch(text: str) -> bool:
    if text.lower() not in SWITCHES:
        raise ValueError
    return SWITCHES[text.lower()]


def _read_whole(text: str) -> int:
    # 010 would be 8 to YAML, 10 to Python and an error to JSON.
    if not re.fullmatch('[-+]?(0|[1-9][0-9]*)', text):
        raise ValueError
    return int(text)


def _read_number(text: str) -> float:
    if '_' in text:  # Python would read 1_5 as 15
        raise ValueError
    return float(text)


# Each raises ValueError.
READERS: dict[type, Callable[[str], Any]] = {
    bool: _read_switch, int: _read_whole, float: _read_number, str: str, tuple: json.loads}


@dataclass(frozen=True)
class SettingInfo:
    """What is known of one setting: for parameter descriptors, help texts and checks."""

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False

    def check(self, value: Any) -> Value:
        """Return the value in the default's type.

        Raises:
            SettingError: wrong type, out of range, or none of the choices.
        """
        value = self._cast(value)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not self._in_range(number):
                raise SettingError(f'{self.name} = {value} is not in {self._range()}')
        if self.choices and value not in self.choices:
            raise SettingError(
                f"{self.name} = '{value}' is not one of: {', '.join(self.choices)}")
        return value

    def parse(self, text: str) -> Value:
        """Read the value from a text, by the default's type: '12' may be a number or a name.

        Raises:
            SettingError: the text is no value of that type, out of range, or none of the choices.
        """
        try:
            value = READERS[type(self.default)](text)
        except ValueError as error:
            raise self._unfit(text, ', without leading zeros' if text.isdigit() else '') from error
        return self.check(value)

    def _cast(self, value: Any) -> Value:
        wanted = type(self.default)
        if isinstance(self.default, tuple):
            numbers = tuple(value) if hasattr(value, '__iter__') else ()
            kind = type(self.default[0])
            fits = _is_whole if kind is int else _is_number
            if len(numbers) == len(self.default) and all(map(fits, numbers)):
                return tuple(map(kind, numbers))
        elif type(value) is wanted:
            return value
        elif wanted is float and type(value) is int:
            return float(value)
        raise self._unfit(value)

    def _unfit(self, value: Any, more: str = '') -> SettingError:
        return SettingError(
            f'{self.name} = {value!r} should be like {self.default!r} ({self._kind()}{more})')

    def _kind(self) -> str:
        if isinstance(self.default, tuple):
            return f'{len(self.default)} numbers'
        return KINDS[type(self.default)]

    def _in_range(self, number: float) -> bool:
        low = -NO_LIMIT if self.low is None else self.low
        high = NO_LIMIT if self.high is None else self.high
        return low <= number <= high

    def _range(self) -> str:
        low = -NO_LIMIT if self.low is None else self.low
        high = NO_LIMIT if self.high is None else self.high
        return f'[{low:.10g}, {high:.10g}]'


def setting(default: Value, description: str, **details: Any) -> Any:
    """Declare one setting; `details` are the other fields of SettingInfo."""
    return field(default=default, metadata={'description': description, **details})


def _info(name: str, declared: Field[Any]) -> SettingInfo:
    default: Any = declared.default
    return SettingInfo(name, default, **declared.metadata)


# Parameters of the node that are no settings of the method: its own, and those of every node.
AUTOSTART = SettingInfo(
    'autostart', True, 'Configure and activate the node when it starts. Turn it off where a '
    'lifecycle manager, e.g. that of Nav2, does so.')
FOREIGN = ('use_sim_time', 'qos_overrides', 'start_type_description_service')


class _Checked:
    """A group of settings that cannot be made with a value out of range."""

    def __post_init__(self) -> None:
        for declared in fields(self):  # type: ignore[arg-type]
            if declared.metadata:
                info = _info(declared.name, declared)
                object.__setattr__(self, declared.name, info.check(getattr(self, declared.name)))


@dataclass(frozen=True)
class ModelSettings(_Checked):
    """Which model, and where it runs."""

    weights: str = setting(
        'embedded', 'The model: the path of a checkpoint, from which system and sizes are read, '
        "or a name that `vpr models` lists, such as 'embedded' (built in) or 'hog' (no weights).")
    weights_sha256: str = setting(
        '', 'SHA-256 of the checkpoint, 64 hex digits: any other file is refused. Empty accepts '
        'every file.')
    device: str = setting(
        'auto', "Where the model runs: 'auto' (a GPU if PyTorch can use one, else the CPU), "
        "'cpu', 'cuda' or 'cuda:N'.")
    precision: str = setting(
        'auto', "Number format of the network: 'auto' is fp16 on a GPU and fp32 elsewhere. Choose "
        'fp32 if fp16 overflows.', choices=('auto', 'fp32', 'fp16', 'bf16'))
    input_size: tuple[int, int] = setting(
        (0, 0), 'Height and width in pixels that images are resized to for the model; [0, 0] is '
        "the model's own size. Smaller is faster; descriptors of different sizes do not belong "
        'in one map.', low=0, high=4096)
    warmup_iters: int = setting(
        3, 'Number of made-up images that the model processes when it is loaded, so that the '
        'first real one is not slow.', low=0, high=50)


@dataclass(frozen=True)
class ImageSettings(_Checked):
    """How image messages become images."""

    encoding_override: str = setting(
        '', 'Encoding to decode raw images as, e.g. bayer_rggb8, where the camera driver names a '
        'wrong one. Empty trusts the message.')
    rotate_deg: int = setting(
        0, 'Degrees clockwise that images are turned by, for a camera that is mounted on its '
        'side or upside down: 0, 90, 180 or 270.', low=0, high=270)
    mask: str = setting(
        '', 'Path of a PNG of the size of the images, whose black pixels are blanked in every '
        'image: for parts of the robot that the camera sees. Empty blanks nothing.')
    max_age: float = setting(
        0.5, 'Largest age of an image when it arrives, in seconds of ROS time since its stamp; '
        'older images are dropped. 0 accepts any age. Raise it for a slow network.',
        low=0.0, live=True)


@dataclass(frozen=True)
class QosSettings(_Checked):
    """Quality of service of the image subscription."""

    image_reliability: str = setting(
        'best_effort', 'Reliability of the image subscription. best_effort receives from '
        'reliable publishers, too; reliable receives nothing from best-effort ones.',
        choices=('best_effort', 'reliable', 'system_default'))
    image_depth: int = setting(
        1, 'Number of images that the middleware queues. Only the newest one is processed, so 1 '
        'suits nearly every robot.', low=1, high=100)


@dataclass(frozen=True)
class FramesSettings(_Checked):
    """Coordinate frames that no message names."""

    map: str = setting(
        'map', 'Frame name that relocalization publishes poses in as long as no back-end has sent '
        "optimised poses: it stands for the odometry frame of the map's session.")
    base_to_camera: tuple[float, ...] = setting(
        (0.0,) * 7,
        "Pose of the camera's optical frame in the robot's base frame: x, y, z in metres and "
        'the quaternion x, y, z, w, as tf2_echo BASE CAMERA prints them; all with decimal '
        'points. [0.3, 0.0, 1.0, -0.5, 0.5, -0.5, 0.5] looks ahead. Zeros: not known. With '
        'depth images and verify.geometry pnp it gives loop closures a transform. It has to '
        'be the same in all sessions of a robot_id.')

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            _ = self.camera
        except PoseError as error:
            raise SettingError(f'frames.base_to_camera: {error}') from error

    @property
    def camera(self) -> Pose | None:
        """The camera's optical frame in the robot's base frame; None where it is not known."""
        numbers = self.base_to_camera
        return Pose(np.array(numbers[:3]), np.array(numbers[3:])) if any(numbers) else None


@dataclass(frozen=True)
class QuerySettings(_Checked):
    """Which images are asked about."""

    max_rate: float = setting(
        2.0, 'Images per second that are processed, by their stamps; the others are skipped. '
        'Lower it to spare the processor, raise it for a fast robot.', low=0.05, high=60.0,
        live=True)
    min_translation: float = setting(
        0.0, 'Metres that the robot has to move by odometry before another image is processed; 0 '
        'processes images at query.max_rate whether it moves or not.', low=0.0, live=True)
    min_rotation: float = setting(
        0.0, 'Radians that the robot has to turn by odometry before another image is processed, '
        'even if it moves less than query.min_translation; 0 ignores turning.', low=0.0,
        high=math.pi, live=True)


@dataclass(frozen=True)
class KeyframeSettings(_Checked):
    """Which images are kept in the map."""

    min_translation: float = setting(
        0.5, 'Metres by odometry between two keyframes. Raise it for a smaller map, e.g. '
        'outdoors.', low=0.0, live=True)
    min_rotation: float = setting(
        0.26, 'Radians that the robot has to turn by odometry for another keyframe, even if it '
        'moves less than keyframe.min_translation; 0 ignores turning.', low=0.0, high=math.pi,
        live=True)
    max_overlap: float = setting(
        0.3, 'Largest share of the view that a new keyframe may have in common with the last one '
        '(checked only without odometry), or with the keyframe that was recognised in it. '
        'Lower keeps fewer keyframes, 1 keeps all.', low=0.0, high=1.0, live=True)
    min_interval: float = setting(
        0.5, 'Shortest time between two keyframes in seconds, however the robot moves.',
        low=0.0, live=True)


@dataclass(frozen=True)
class MapSettings(_Checked):
    """The keyframe map."""

    path: str = setting(
        '', 'File of the map, e.g. office.vprmap: it is loaded if it exists, and every keyframe '
        'is written to it at once. Empty: the map is in memory and gone at the end. Robots share '
        'a map at milvus://HOST:PORT, https://HOST:PORT or milvus:///FOLDER.db (Milvus Lite).')
    own_path: str = setting(
        '', "File of this robot's own keyframes where map.path is an address that robots share. "
        'Empty: ~/.ros/selavpr/robot_N.vprmap, N being robot_id.')
    server_timeout: float = setting(
        0.5, 'Seconds that a query waits for the server of a map that robots share; then it goes '
        "on with this robot's own keyframes.", low=0.05, high=60.0)
    mode: str = setting(
        'mapping', 'mapping adds keyframes to the map; localization only looks for places in it.',
        choices=('mapping', 'localization'), live=True)
    read_only: bool = setting(
        False, 'Open the map file without ever writing to it, e.g. while another node does. No '
        'keyframe is added then.')
    max_keyframes: int = setting(
        20000, 'Keyframes that the map holds at most; map.eviction says what happens then.',
        low=1, high=10_000_000, live=True)
    eviction: str = setting(
        'reject_new', 'What happens at map.max_keyframes: reject_new adds no more keyframes; '
        'oldest_session deletes the oldest session; densest deletes the one per cent of the '
        'keyframes that look most like the one before them.',
        choices=('reject_new', 'oldest_session', 'densest'), live=True)
    local_codec: str = setting(
        'float16',
        'How local features are stored in a new map; an existing map keeps its own codec. '
        'int8 takes half the memory of float16, binary a sixteenth, at some loss. none stores '
        'no local features and turns re-ranking off.',
        choices=CODECS)
    local_cache_mib: int = setting(
        1024, 'MiB of memory for local features read from the map file, and again as much for '
        'keyframes that wait while the file cannot be written. Lower it on a small computer; '
        'queries then read the disk more often.', low=1, high=1_000_000)
    thumbnails: bool = setting(
        True, 'Store a small JPEG of each keyframe, 160 pixels wide, for ~/debug_image, '
        '~/get_keyframes and vpr map-info.')


@dataclass(frozen=True)
class IndexSettings(_Checked):
    """Retrieval by the global descriptor."""

    type: str = setting(
        'auto', 'How the most similar keyframes are searched: flat compares with every keyframe '
        'and is exact; hnsw (a graph) and ivf (cells) are faster in large maps and may miss some; '
        'auto is flat up to 20 000 keyframes and hnsw above.',
        choices=('auto', 'flat', 'hnsw', 'ivf'))
    session_filter: str = setting(
        'all',
        'Sessions whose keyframes can be candidates: intra is the running session, inter all '
        'other ones, all is both.', choices=('all', 'intra', 'inter'), live=True)

    top_k: int = setting(
        20, 'Candidates per query: the most similar keyframes, which are then re-ranked. 20 finds '
        'nearly what 100 finds; the time of a query grows with it.', low=1, high=200, live=True)
    exclude_recent_keyframes: int = setting(
        20, 'Number of newest keyframes of the running session that are no candidates: they show '
        'where the robot just was. Places that were not stored, because the map has them '
        'already, count as well.', low=0, live=True)
    exclude_recent_seconds: float = setting(
        30.0, 'Keyframes of the running session are no candidates until they are this old, in '
        'seconds.', low=0.0, live=True)
    exclude_recent_distance: float = setting(
        10.0, 'Keyframes of the running session are no candidates until the robot has travelled '
        'this far from them by odometry, in metres.', low=0.0, live=True)


@dataclass(frozen=True)
class VerifySettings(_Checked):
    """Re-ranking by local features."""

    enabled: bool = setting(
        True, 'Re-rank candidates by mutual matches of their local features. Without it the '
        'decision relies on the similarity of global descriptors alone: faster, and much less '
        'certain.', live=True)
    geometry: str = setting(
        'fundamental', 'What the mutual matches of the best candidate have to fit. fundamental: '
        'any static scene, and with camera_info it tells rotation and direction; homography: a '
        'plane, or a camera that only turns; pnp: depth images, and it tells a pose in metres; '
        'none turns the check off.', choices=('none', 'homography', 'fundamental', 'pnp'),
        live=True)


@dataclass(frozen=True)
class GateSettings(_Checked):
    """What a candidate has to pass to become a loop closure."""

    min_probability: float = setting(
        0.99,
        'Lowest probability of a loop closure: that query and keyframe show the same place, '
        'by all views so far. A lower value closes more loops, and earlier, but risks false '
        'ones; above 0.995 hardly any view gets there.', low=0.5, high=1.0, live=True)
    min_inlier_share: float = setting(
        0.3,
        'Smallest share of the mutual matches that has to fit one movement of the camera (see '
        'verify.geometry) for a loop closure; 0 accepts any. Lower it where moving objects '
        'fill the view.', low=0.0, high=1.0, live=True)
    max_drift: float = setting(
        0.1,
        'Largest drift of the odometry, as a share of the distance travelled. A keyframe that '
        'odometry places farther away than this, plus 10 m, is ruled out. 0.1 is a bad '
        'odometry; 10 rules nothing out.', low=0.0, high=10.0, live=True)
    max_vertical_drift: float = setting(
        0.01, 'Largest drift of the height by odometry, as a share of the distance travelled. A '
        'keyframe that is higher or lower than this, plus 1 m, is ruled out: that tells '
        'storeys apart. 10 rules nothing out, for a camera without an IMU or a robot that '
        'flies.', low=0.0, high=10.0, live=True)
    min_motion: float = setting(
        0.5, 'Metres that the robot has to move before a view counts as new evidence: a robot '
        'that stands still sees the same again. A turn by keyframe.min_rotation counts as well. '
        'Without odometry, a view is new if less than half of it was in the last one.', low=0.0,
        live=True)
    look_back: int = setting(
        20, 'Number of earlier views whose loop closures are still published once later views '
        'make them sure; 0 publishes those of the newest view alone.', low=0, high=1000, live=True)


@dataclass(frozen=True)
class RelocalizationSettings(_Checked):
    """When the robot knows where it is in another session's map, and how well."""

    keyframe_sigma_xy: float = setting(
        2.0, 'Standard deviation in metres between the position of the robot and that of the '
        'keyframe it recognised: the covariance of ~/relocalization_pose. Raise it in open '
        'spaces, where a place is recognised from afar.', low=0.01, high=100.0, live=True)
    keyframe_sigma_yaw: float = setting(
        0.6, 'Standard deviation in radians between the heading of the robot and that of the '
        'keyframe it recognised: the covariance of ~/relocalization_pose.', low=0.01,
        high=math.pi, live=True)


@dataclass(frozen=True)
class StatusSettings(_Checked):
    """Status and diagnostics."""

    period: float = setting(
        1.0, 'Seconds between two messages on ~/status and on /diagnostics.', low=0.1, high=60.0)
    warn_latency_ms: float = setting(
        500.0, 'The diagnostics warn when one query in twenty takes longer than this, in '
        'milliseconds from the receipt of the image to its candidates.', low=0.0, live=True)
    warn_image_gap: float = setting(
        3.0, 'Seconds without an image after which the diagnostics warn.', low=0.0, live=True)


@dataclass(frozen=True)
class DebugSettings(_Checked):
    """The picture of what was matched."""

    image: bool = setting(
        True, 'Draw each query beside its best candidate, with their mutual matches, on '
        '~/debug_image. Without a subscriber nothing is drawn.', live=True)
    max_width: int = setting(
        1280, 'Largest width of ~/debug_image in pixels.', low=640, high=8192, live=True)
    lines: int = setting(
        100, 'Mutual matches drawn on ~/debug_image at most, the strongest first.', low=0,
        high=10_000, live=True)


@dataclass(frozen=True)
class Settings(_Checked):
    """All settings of the node, the replay and the library."""

    image_transport: str = setting(
        'raw', 'Which topic is subscribed: raw is image, compressed is image/compressed.',
        choices=('raw', 'compressed'))
    pose_source: str = setting(
        'odom',
        'Where poses come from: odom subscribes to the topic odom (nav_msgs/Odometry); none '
        'works without poses, and keyframes are chosen by how little two images have in '
        'common.', choices=('odom', 'none'))
    pose_timeout: float = setting(
        0.1, 'Seconds that an image waits for odometry with a later stamp, besides the usual '
        'interval between two odometry messages; then it is used without a pose. Raise it if '
        'odometry arrives late.', low=0.0, high=5.0, live=True)
    pose_max_gap: float = setting(
        0.0, 'Longest time in seconds between two odometry messages over which the pose of an '
        'image is interpolated. 0 follows the rate of the odometry: two and a half times the '
        'usual interval, from 0.5 to 10 s. Raise it if many odometry messages are lost.',
        low=0.0, high=60.0, live=True)
    robot_id: int = setting(
        0, 'Number of this robot, part of every keyframe id. Robots that share or merge maps need '
        'different ones from 1 on.', low=0, high=65535)
    model: ModelSettings = field(default_factory=ModelSettings)
    image: ImageSettings = field(default_factory=ImageSettings)
    qos: QosSettings = field(default_factory=QosSettings)
    frames: FramesSettings = field(default_factory=FramesSettings)
    query: QuerySettings = field(default_factory=QuerySettings)
    keyframe: KeyframeSettings = field(default_factory=KeyframeSettings)
    map: MapSettings = field(default_factory=MapSettings)
    index: IndexSettings = field(default_factory=IndexSettings)
    verify: VerifySettings = field(default_factory=VerifySettings)
    gates: GateSettings = field(default_factory=GateSettings)
    relocalization: RelocalizationSettings = field(default_factory=RelocalizationSettings)
    status: StatusSettings = field(default_factory=StatusSettings)
    debug: DebugSettings = field(default_factory=DebugSettings)

    def flat(self) -> dict[str, Value]:
        """All values by their dotted names, e.g. 'index.top_k'."""
        return {info.name: _value(self, info.name) for info in describe()}


def _value(settings: Settings, name: str) -> Value:
    value: Any = settings
    for part in name.split('.'):
        value = getattr(value, part)
    return value


def _groups() -> Iterator[tuple[str, Any]]:
    for declared in fields(Settings):
        if declared.default_factory is not MISSING and is_dataclass(declared.default_factory):
            yield declared.name, declared.default_factory


def describe() -> list[SettingInfo]:
    """All settings: the single ones first, then group by group."""
    infos = [_info(single.name, single) for single in fields(Settings) if single.metadata]
    for group, kind in _groups():
        infos += [_info(f'{group}.{member.name}', member) for member in fields(kind)]
    return infos


def make_settings(values: Mapping[str, Any]) -> Settings:
    """Make settings from values by dotted name; what is not named keeps its default.

    Raises:
        SettingError: unknown name, wrong type, or out of range.
    """
    known = {info.name: info for info in describe()}
    checked: dict[str, dict[str, Value]] = {}
    for name, value in values.items():
        if name not in known:
            raise SettingError(f"there is no setting '{name}'{nearest(name, known)}")
        group, _, member = name.rpartition('.')
        checked.setdefault(group, {})[member] = known[name].check(value)
    single: dict[str, Any] = checked.pop('', {})
    kinds = dict(_groups())
    return Settings(**single, **{name: kinds[name](**part) for name, part in checked.items()})


def replace_setting(settings: Settings, name: str, value: Value) -> Settings:
    """The same settings but for one, by its dotted name.

    Raises:
        SettingError: unknown name, wrong type, or out of range.
    """
    return make_settings({**settings.flat(), name: value})
