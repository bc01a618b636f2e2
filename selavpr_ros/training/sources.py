"""Where training images come from: folders, bags and the simulated world -> walks."""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from selavpr_ros.errors import ImageError, SettingError
from selavpr_ros.images.compressed import read_image
from selavpr_ros.images.decoding import ImageReader
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.bag import Bag, Topic
from selavpr_ros.recordings.clocks import Span
from selavpr_ros.recordings.image_folders import (
    POSES,
    by_number,
    is_image,
    position_in_name,
    read_poses,
)
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.topics import (
    choose_image_topic,
    choose_odometry_topic,
    choose_truth_topic,
)
from selavpr_ros.settings import ImageSettings
from selavpr_ros.training.data import KINDS, Walk

POSES_FILES = (POSES, 'positions.csv')
_FRAME_NUMBER = re.compile(r'_frame_\d+$|\d+$')
STORED_SIDE = 560  # pixels of the shorter side of a bag's kept images; no system takes larger ones
STORED_QUALITY = 95  # of JPEG, a tenth of the pixels' memory
BAG_SPACING_M = 0.5
BAG_SPACING_S = 1.0  # without odometry

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where training images are, and what their order means.

    Attributes:
        path: below the data folder, or absolute; a pattern may stand for several folders.
        kind: 'walk', 'place' or 'mixed': image folders, see `Walk`; 'bag': a rosbag2;
            'simulated': rendered towns, without a path.
        name: a regular expression whose first group, in the name of a file, names its walk or
            place; two names mean two places. Unless given, the part before the number does.
        group: walks of one group may show the same places, see `Walk`. Unless given, each folder,
            name and bag is a group of its own.
        left_out: patterns of paths below `path` that are not for training.
        image_topic, pose_topic: topics of a bag. Unless given, these are the only ones that there
            are, and true poses come before odometry; pose_topic 'none' does without poses.
        worlds, visits, seed: how many simulated towns, how often each is driven through, and
            where their random numbers begin.
    """

    path: str = ''
    kind: str = 'walk'
    name: str = ''
    group: str = ''
    left_out: Sequence[str] = ()
    image_topic: str | None = None
    pose_topic: str | None = None
    worlds: int = 10
    visits: int = 2
    seed: int = 1000


# ---- folders ------------------------------------------------------------------------------------

def _read_poses(table: Path) -> dict[str, np.ndarray]:
    """Poses (3,) by image, as the table names it."""
    return {image: pose for _, image, pose in read_poses(table, may_be_unknown=True)}


def _table(root: Path, folder: Path) -> Path | None:
    """The nearest table of poses, from a folder up to the root."""
    upwards = [folder, *folder.parents]
    tables = (above / name for above in upwards[: upwards.index(root) + 1] for name in POSES_FILES)
    return next((table for table in tables if table.is_file()), None)


def _known_poses(
    table: Path, known: dict[str, np.ndarray], files: list[Path]
) -> list[np.ndarray]:
    """Poses of files, which lie beside the table, below it, or in its folder `images`."""
    names = [file.relative_to(table.parent).as_posix() for file in files]
    poses = [known.get(name, known.get(name.removeprefix('images/'))) for name in names]
    missing = [name for name, pose in zip(names, poses, strict=True) if pose is None]
    if missing:
        raise SettingError(
            f'{table}: no row for {missing[0]} ({len(missing)} such images): add them, with nan '
            'for a pose that is not known, or name them in left_out')
    return [pose for pose in poses if pose is not None]


def _poses_in_names(files: list[Path]) -> list[np.ndarray] | None:
    """Poses in the names of the files; None unless every name has one."""
    told = [position_in_name(file) for file in files]
    poses = [np.array([*position, np.nan]) for position in told if position]
    return poses if len(poses) == len(files) else None


def _wanted(file: Path, root: Path, left_out: Sequence[str]) -> bool:
    relative = file.relative_to(root)
    is_hidden = any(part.startswith('.') for part in relative.parts)
    return not is_hidden and is_image(file) and not any(
        fnmatch.fnmatch(relative.as_posix(), pattern) for pattern in left_out)


def _walk_name(file: Path, pattern: str) -> str:
    """What the images of one walk have in common."""
    if not pattern:
        return '' if '@' in file.name else _FRAME_NUMBER.sub('', file.stem)
    try:
        match = re.search(pattern, file.stem)
        return match[1] if match else ''
    except (re.error, IndexError) as error:
        raise SettingError(f"name '{pattern}' is no regular expression with a group ({error}): "
                           "it has to be like '^(.*)_'") from error


def _walk_files(root: Path, source: Source) -> dict[tuple[Path, str], list[Path]]:
    """The images of each folder and name, in order."""
    walks: dict[tuple[Path, str], list[Path]] = {}
    for file in sorted(root.rglob('*')):
        if _wanted(file, root, source.left_out):
            walks.setdefault((file.parent, _walk_name(file, source.name)), []).append(file)
    return {key: sorted(files, key=by_number) for key, files in walks.items()}


def _folder_walks(root: Path, source: Source) -> Iterator[Walk]:
    """All walks below a folder, with poses from tables or names where there are any."""
    poses_of: Callable[[Path], dict[str, np.ndarray]] = lru_cache(maxsize=1)(_read_poses)
    for (folder, name), files in _walk_files(root, source).items():
        kind, poses, table = source.kind, None, _table(root, folder)
        group = source.group or (f'{folder}/{name}' if source.name else str(root))
        if table is not None:
            poses = _known_poses(table, poses_of(table), files)
        else:
            poses = _poses_in_names(files)
            if poses and kind == 'walk':
                kind = 'mixed'  # such names are in the order of positions, not of the walk
        images = [partial(read_image, file) for file in files]
        yield Walk(images, kind, group, np.array(poses) if poses else None)


def _folders(data: Path, path: str) -> list[Path]:
    """The folder of this path, or all folders that match it as a pattern."""
    if (data / path).is_dir():
        return [data / path]
    pattern = Path(path)
    anchor = Path(pattern.anchor) if pattern.is_absolute() else data
    return sorted(anchor.glob(str(pattern.relative_to(pattern.anchor))))


# ---- bags ---------------------------------------------------------------------------------------

def _is_due(stamp_ns: int, pose: Pose | None, last: tuple[int, Pose | None] | None) -> bool:
    """Whether the robot has moved on or, without poses, enough time has passed."""
    if last is None:
        return True
    if pose is None or last[1] is None:
        return stamp_ns - last[0] >= BAG_SPACING_S * 1e9
    return bool(np.linalg.norm(pose.translation_m - last[1].translation_m) >= BAG_SPACING_M)


def _store(image: np.ndarray) -> np.ndarray:
    """Compress an image (H, W, 3), shrunk to what a model can use, to the bytes of a JPEG."""
    scale = STORED_SIDE / min(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode('.jpg', image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, STORED_QUALITY))[1]


def _restore(jpeg: np.ndarray) -> np.ndarray:
    image = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    assert image is not None
    return np.ascontiguousarray(image[..., ::-1])


def _planar(pose: Pose | None) -> np.ndarray:
    if pose is None:
        return np.full(3, np.nan)
    return np.array([pose.x_m, pose.y_m, pose.yaw_rad])


def _pose_topic(bag: Bag, asked: str | None) -> Topic | None:
    """The topic with the best poses of the camera; None without poses."""
    truth = None if asked else choose_truth_topic(bag)
    return truth or choose_odometry_topic(bag, asked)


def _why_none_is_due(
    images: Topic, poses: Topic | None, track: PoseTrack, stamps_ns: list[int]
) -> str:
    span = Span.of(stamps_ns)
    if span is None or poses is None:
        return f'none of the {images.count} images of {images.name} came'
    return f"{track.why_none(span, poses.name)}; pose_topic 'none' does without poses"


def _due_images(bag: Bag, source: Source) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images, (H, W, 3) uint8 RGB, and their poses (3,), wherever the robot has moved on.

    Raises:
        SettingError: there is none.
    """
    topic, told = choose_image_topic(bag, source.image_topic), _pose_topic(bag, source.pose_topic)
    track = PoseTrack(bag.poses(told.name) if told else ())
    last: tuple[int, Pose | None] | None = None
    stamps_ns, first_error = [], ''
    read = ImageReader(ImageSettings())
    for stamp_ns, message in tqdm(
            bag.stamped(topic.name), total=topic.count, desc=f'reading {bag.name}'):
        stamps_ns.append(stamp_ns)
        pose = track.at(stamp_ns)
        if (told and pose is None) or not _is_due(stamp_ns, pose, last):
            continue
        try:
            yield read(message), _planar(pose)
        except ImageError as error:
            logger.warning('image at %d ns skipped: %s', stamp_ns, error)
            first_error = first_error or f'image at {stamp_ns} ns: {error}'
            continue
        last = stamp_ns, pose
    if not last:
        why = first_error or _why_none_is_due(topic, told, track, stamps_ns)
        raise SettingError(f'{bag.path}: no image can be used: {why}')


def _bag_walk(path: Path, source: Source) -> Walk:
    """One image every `BAG_SPACING_M`, kept in memory, with poses if the bag has them.

    Raises:
        SettingError: no image has a pose, or none can be decoded.
        BagError: the bag cannot be read, or leaves a choice of topics.
    """
    images, poses = [], []
    with Bag(path) as bag:
        for image, pose in _due_images(bag, source):
            images.append(partial(_restore, _store(image)))
            poses.append(pose)
    return Walk(images, 'walk', source.group or str(path), np.array(poses))


# ---- the simulated world ------------------------------------------------------------------------


def _render(source: Source, cache: Path) -> list[Path]:
    """Folders with the towns of an entry, rendered unless they are there."""
    from selavpr_ros.training.simulated import SimulatedPlaces, write_world

    seeds = range(source.seed, source.seed + source.worlds)
    root = (cache / 'simulated').resolve()
    folders = [root / f'town_{seed}_{source.visits}' for seed in seeds]
    for seed, folder in zip(tqdm(seeds, desc='rendering', unit='town'), folders, strict=True):
        write_world(folder, SimulatedPlaces(), seed, source.visits)
    return folders


# ---- all of them --------------------------------------------------------------------------------


def find_walks(data: Path, source: Source, cache: Path) -> list[Walk]:
    """Find the walks of one entry of a recipe.

    Args:
        data: folder that relative paths start from.
        source: the entry.
        cache: folder for simulated towns that are rendered.

    Raises:
        SettingError: the kind is unknown, there is no image, or a table lacks the row of one.
        GroundTruthError: a table of poses cannot be read, or has other columns.
        BagError: the bag cannot be read.
    """
    if source.kind == 'bag':
        return [_bag_walk(data / source.path, source)]
    if source.kind == 'simulated':
        folders = _render(source, cache)
        source = replace(source, kind='walk')
    elif source.kind in KINDS:
        folders = _folders(data, source.path)
    else:
        raise SettingError(f"kind '{source.kind}' of {source.path}: take one of "
                           f"{', '.join(KINDS)}, bag, simulated")
    walks = [walk for folder in folders for walk in _folder_walks(folder, source)]
    if not walks:
        raise SettingError(f'{data / source.path}: no .jpg or .png or other image in it that is '
                           'not left out')
    return walks
