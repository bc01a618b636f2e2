"""Every setting once: name, default, range, unit and reason.

The ROS parameters, `config/vpr.yaml` and the command line's `--set` are made from these classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from selavpr_ros.errors import PoseError, SettingError
from selavpr_ros.pose import Pose

# ROS wants both ends of a range; this one fits its whole numbers, too.
NO_LIMIT = 2**31 - 1

Value = bool | int | float | str | tuple[int, ...] | tuple[float, ...]


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


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
            raise SettingError(f"{self.name} = '{value}' is none of {', '.join(self.choices)}")
        return value

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
        raise SettingError(f'{self.name} = {value!r} should be like {self.default!r}')

    def _in_range(self, number: float) -> bool:
        low = -NO_LIMIT if self.low is None else self.low
        high = NO_LIMIT if self.high is None else self.high
        return low <= number <= high

    def _range(self) -> str:
        low = f'{-NO_LIMIT if self.low is None else self.low:g}'
        high = f'{NO_LIMIT if self.high is None else self.high:g}'
        return f'[{low}, {high}]'


def setting(default: Value, description: str, **details: Any) -> Any:
    """Declare one setting; `details` are the other fields of SettingInfo."""
    return field(default=default, metadata={'description': description, **details})


def _info(name: str, declared: Field[Any]) -> SettingInfo:
    default: Any = declared.default
    return SettingInfo(name, default, **declared.metadata)


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
        'embedded', "'embedded', 'hog' (no weights), the path of a checkpoint of SelaVPR, "
        "CricaVPR, SALAD, FoL or DINOv2, or timm's name of a DINOv2 backbone; family and sizes "
        'are read from the file')
    weights_sha256: str = setting('', 'Refuse weights with another SHA-256 (64 hex digits)')
    device: str = setting('auto', "'auto' (GPU if torch can use one), 'cpu', 'cuda', 'cuda:N'")
    precision: str = setting(
        'auto', "Computation: 'auto' is fp16 on a GPU and fp32 elsewhere",
        choices=('auto', 'fp32', 'fp16', 'bf16'))
    input_size: tuple[int, int] = setting(
        (0, 0), "Height and width in pixels that the model sees; [0, 0] is the model's own",
        low=0, high=4096)
    warmup_iters: int = setting(3, 'Images run through the model before the first', low=0, high=50)


@dataclass(frozen=True)
class ImageSettings(_Checked):
    """How image messages become images."""

    encoding_override: str = setting('', 'Decode raw images as this encoding, e.g. bayer_rggb8')
    rotate_deg: int = setting(
        0, 'Turn images by this many degrees clockwise: 0, 90, 180, 270', low=0, high=270)
    mask: str = setting('', 'PNG of the size of the images: its black pixels are blanked')
    max_age: float = setting(
        0.5, 'Seconds (ROS time): older images are dropped; 0 turns this off', low=0.0, live=True)


@dataclass(frozen=True)
class QosSettings(_Checked):
    """Quality of service of the image subscription."""

    image_reliability: str = setting(
        'best_effort', 'best_effort also matches reliable publishers',
        choices=('best_effort', 'reliable', 'system_default'))
    image_depth: int = setting(1, 'Images that DDS keeps', low=1, high=100)


@dataclass(frozen=True)
class FramesSettings(_Checked):
    """Coordinate frames that no message tells."""

    map: str = setting(
        'map', 'Frame of the poses in a map that no back-end has optimised: what the first '
        "session's odometry was in")
    base_to_camera: tuple[float, ...] = setting(
        (0.0,) * 7, "Pose of the camera's optical frame in the robot's base frame, as tf2_echo "
        'BASE CAMERA prints it: x, y, z in metres, quaternion x, y, z, w (with decimal points: '
        '[0.3, 0.0, 1.0, -0.5, 0.5, -0.5, 0.5] looks ahead), the same in all sessions of a '
        'robot_id; zeros: not known. With verify.geometry pnp and depth, loop closures then have '
        'a transform')

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
        2.0, 'Images per second (of their stamps) that are processed', low=0.05, high=60.0,
        live=True)
    min_translation: float = setting(
        0.0, 'Metres since the last query; needs odometry', low=0.0, live=True)
    min_rotation: float = setting(
        0.0, 'Radians since the last query, enough without translation; needs odometry', low=0.0,
        high=math.pi, live=True)


@dataclass(frozen=True)
class KeyframeSettings(_Checked):
    """Which images are kept in the map."""

    min_translation: float = setting(
        0.5, 'Metres from the last keyframe', low=0.0, live=True)
    min_rotation: float = setting(
        0.26, 'Radians turned since the last keyframe, enough without translation', low=0.0,
        high=math.pi, live=True)
    max_overlap: float = setting(
        0.3, 'Share of the view that an image may have in common with the last keyframe (used '
        'without odometry), or with the keyframe that was recognised in it, and still be kept: '
        'lower keeps fewer keyframes, 1 keeps all', low=0.0, high=1.0, live=True)
    min_interval: float = setting(0.5, 'Seconds since the last keyframe', low=0.0, live=True)


@dataclass(frozen=True)
class MapSettings(_Checked):
    """The keyframe map."""

    path: str = setting(
        '', 'File that the map lives in, e.g. office.vprmap: what is in it is loaded, and every '
        'keyframe is durable at once; without one the map is gone at the end. Or where robots '
        'share a map: milvus://HOST:PORT, https://HOST:PORT, milvus:///FOLDER.db (Milvus Lite)')
    own_path: str = setting(
        '', "With a shared map.path: file of this robot's own keyframes; without one it is "
        '~/.ros/selavpr/robot_N.vprmap')
    server_timeout: float = setting(
        0.5, 'With a shared map.path: seconds that a query waits for its server', low=0.05,
        high=60.0)
    mode: str = setting(
        'mapping', 'mapping keeps keyframes, localization only looks for places in the map',
        choices=('mapping', 'localization'), live=True)
    read_only: bool = setting(
        False, 'Open the file without ever writing to it, e.g. while another node does')
    max_keyframes: int = setting(
        20000, 'Keyframes that the map holds at most', low=1, high=10_000_000, live=True)
    eviction: str = setting(
        'reject_new', 'What a full map does: reject_new takes no more keyframes, oldest_session '
        'forgets the oldest session, densest forgets the hundredth that looks most like the '
        'keyframe before it', choices=('reject_new', 'oldest_session', 'densest'), live=True)
    local_codec: str = setting(
        'float16', 'How local features are kept in a new map (one that exists keeps its own): '
        "float16, int8 takes a half of it, binary a sixteenth; 'none' turns re-ranking off",
        choices=('none', 'float16', 'int8', 'binary'))
    local_cache_mib: int = setting(
        1024, 'MiB of memory for local features, of which the file holds all; and for keyframes '
        'while the file cannot be written', low=1, high=1_000_000)
    thumbnails: bool = setting(True, 'Keep a JPEG of each keyframe, 160 pixels wide')


@dataclass(frozen=True)
class IndexSettings(_Checked):
    """Retrieval by the global descriptor."""

    type: str = setting(
        'auto', 'flat compares with every keyframe; hnsw is a graph; ivf is cells; auto is flat '
        'up to 20 000 keyframes and hnsw above', choices=('auto', 'flat', 'hnsw', 'ivf'))
    session_filter: str = setting(
        'all', 'Candidates of this session (intra), of other ones (inter), or all',
        choices=('all', 'intra', 'inter'), live=True)

    top_k: int = setting(
        20, 'Candidates per query; 20 gives close to what 100 give', low=1, high=200, live=True)
    exclude_recent_keyframes: int = setting(
        20, 'The newest keyframes of this session are no candidates; views count, too, that were '
        'not stored because the map knows them', low=0, live=True)
    exclude_recent_seconds: float = setting(
        30.0, 'Nor are keyframes of the last seconds', low=0.0, live=True)
    exclude_recent_distance: float = setting(
        10.0, 'Nor those of the last metres travelled (with odometry)', low=0.0, live=True)


@dataclass(frozen=True)
class VerifySettings(_Checked):
    """Re-ranking by local features."""

    enabled: bool = setting(True, 'Re-rank by mutual matches of local features', live=True)
    geometry: str = setting(
        'fundamental', 'What the mutual matches have to fit: none, homography (a plane, or a '
        'camera that only turns), fundamental (any static scene; with camera_info it tells '
        'rotation and direction, too), or pnp (with depth: a metric pose)',
        choices=('none', 'homography', 'fundamental', 'pnp'), live=True)


@dataclass(frozen=True)
class GateSettings(_Checked):
    """What a candidate has to pass to become a loop closure."""

    min_probability: float = setting(
        0.99, 'Probability that query and keyframe show the same place, by all views so far, '
        'which a loop closure needs at least; lower closes more loops and sooner, and risks false '
        'ones; above 0.995 hardly any view gets there', low=0.5, high=1.0, live=True)
    min_inlier_share: float = setting(
        0.3, 'Share of the mutual matches that has to fit one movement of the camera, see '
        'verify.geometry; 0 turns this gate off', low=0.0, high=1.0, live=True)
    max_drift: float = setting(
        0.1, 'How far odometry may drift, as a share of the way driven: candidates that it places '
        'farther away than that, and 10 m, are impossible; 0.1 is a bad odometry, 10 turns this '
        'gate off', low=0.0, high=10.0, live=True)
    max_vertical_drift: float = setting(
        0.01, 'How far odometry may drift up or down, as a share of the way driven: this share '
        'and 1 m tell storeys apart; 10 suits a camera without an IMU, or a robot that flies',
        low=0.0, high=10.0, live=True)
    min_motion: float = setting(
        0.5, 'Metres that the robot has to move before a view counts as a new one: a robot that '
        'stands gathers no evidence and closes no loop twice; without odometry a '
        'view is new if less than half of it is the same', low=0.0, live=True)
    look_back: int = setting(
        20, 'Views before the present one whose loop closures are published, too, once later '
        'views make them sure; 0 publishes only those of the present view', low=0, high=1000,
        live=True)


@dataclass(frozen=True)
class RelocalizationSettings(_Checked):
    """When the robot knows where it is in another session's map, and how well."""

    keyframe_sigma_xy: float = setting(
        2.0, "Metres: standard deviation of the robot's position from the recognised keyframe's",
        low=0.01, high=100.0, live=True)
    keyframe_sigma_yaw: float = setting(
        0.6, 'Radians: the same of its heading', low=0.01, high=math.pi, live=True)


@dataclass(frozen=True)
class StatusSettings(_Checked):
    """Status and diagnostics."""

    period: float = setting(1.0, 'Seconds between two messages', low=0.1, high=60.0)
    warn_latency_ms: float = setting(
        500.0, 'Warn when the 95th percentile of the latency is above', low=0.0, live=True)
    warn_image_gap: float = setting(
        3.0, 'Warn after so many seconds without an image', low=0.0, live=True)


@dataclass(frozen=True)
class DebugSettings(_Checked):
    """The picture of what was matched."""

    image: bool = setting(
        True, 'Draw query, keyframe and their mutual matches on ~/debug_image while somebody '
        'listens', live=True)
    max_width: int = setting(
        1280, 'Pixels that the picture is wide at most', low=640, high=8192, live=True)
    lines: int = setting(
        100, 'Mutual matches that are drawn at most, the strongest first', low=0, high=10_000,
        live=True)


@dataclass(frozen=True)
class Settings(_Checked):
    """All settings of the node, the replay and the library."""

    image_transport: str = setting(
        'raw', 'Which of image and image/compressed is subscribed', choices=('raw', 'compressed'))
    pose_source: str = setting(
        'odom', "'odom' subscribes to odometry; 'none' selects keyframes by similarity",
        choices=('odom', 'none'))
    pose_timeout: float = setting(
        0.1, 'Seconds that an image waits for the odometry around its stamp', low=0.0, high=5.0,
        live=True)
    robot_id: int = setting(0, 'Part of every keyframe id', low=0, high=65535)
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
            raise SettingError(f"there is no setting '{name}'")
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
