"""Chooses the topics of a bag that the user does not name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selavpr_ros.errors import BagError
from selavpr_ros.recordings.bag import IMAGE_TYPES, ODOMETRY_TYPE, Bag, Topic

NONE = 'none'
DEPTH_TYPE = IMAGE_TYPES[0]  # depth is never compressed as a photograph
TRUTH_TOPIC = '/ground_truth/odom'


@dataclass(frozen=True)
class Sources:
    """The topics of a bag that a run reads."""

    images: Topic
    odometry: Topic | None
    truth: Topic | None
    camera_info: Topic | None = None
    depth: Topic | None = None


def _listed(topics: Sequence[Topic]) -> str:
    return '; '.join(map(str, topics)) or 'none at all'


def _find(topics: Sequence[Topic], asked: str) -> Topic | None:
    """The topic of that name; the slash in front may be left out."""
    return next((t for t in topics if t.name in (asked, f'/{asked}')), None)


def _require(bag: Bag, topics: Sequence[Topic], asked: str, kind: str) -> Topic:
    found = _find(topics, asked)
    if found is None:
        raise BagError(f'{bag.path} has no {kind} {asked}; it has: {_listed(topics)}')
    return found


def _require_poses(bag: Bag, asked: str) -> Topic:
    return _require(bag, bag.pose_topics(), asked, 'topic with poses')


def choose_image_topic(bag: Bag, asked: str | None = None) -> Topic:
    """Choose the named image topic, or the only one that has images.

    Raises:
        BagError: there is no such topic, no image, or more than one topic; the text lists them.
    """
    topics = bag.image_topics()
    if asked is not None:
        return _require(bag, topics, asked, 'image topic')
    filled = [topic for topic in topics if topic.count]
    if not filled:
        raise BagError(f'{bag.path} holds no images; its topics are: {_listed(bag.topics())}')
    if len(filled) > 1:
        raise BagError(f'{bag.path} has {len(filled)} image topics, choose one with --topic: '
                       f'{_listed(filled)}')
    return filled[0]


def choose_truth_topic(bag: Bag, asked: str | None = None) -> Topic | None:
    """Choose the named topic with true poses, or /ground_truth/odom if it has messages.

    Raises:
        BagError: there is no such topic; the text lists those with poses.
    """
    if asked == NONE:
        return None
    if asked:
        return _require_poses(bag, asked)
    return _find([topic for topic in bag.pose_topics() if topic.count], TRUTH_TOPIC)


def choose_odometry_topic(
    bag: Bag, asked: str | None = None, truth: Topic | None = None
) -> Topic | None:
    """Choose the named odometry, else the only one, else one called odom; never the ground truth.

    Raises:
        BagError: there is no such topic, or more than one; the text lists them.
    """
    if asked == NONE:
        return None
    if asked:
        return _require_poses(bag, asked)
    topics = [
        topic for topic in bag.pose_topics() if topic.type == ODOMETRY_TYPE and topic.count
        and topic != truth and topic.name != TRUTH_TOPIC
    ]
    named = [topic for topic in topics if topic.name.rpartition('/')[2] == 'odom']
    chosen = topics if len(topics) < 2 else named
    if len(chosen) == 1:
        return chosen[0]
    if topics:
        raise BagError(f'{bag.path} has {len(topics)} odometry topics, choose one with '
                       f'--odom-topic, or none: {_listed(topics)}')
    return None


def choose_camera_info_topic(bag: Bag, images: Topic, asked: str | None = None) -> Topic | None:
    """Choose the named calibration, else the one beside the images, else the only one.

    Raises:
        BagError: there is no such topic; the text lists those that exist.
    """
    if asked == NONE:
        return None
    topics = bag.camera_info_topics()
    if asked:
        return _require(bag, topics, asked, 'camera_info topic')
    driver = images.name.removesuffix('/compressed').rpartition('/')[0]
    beside = _find(topics, f'{driver}/camera_info')
    return beside or (topics[0] if len(topics) == 1 else None)


def choose_depth_topic(bag: Bag, images: Topic, asked: str | None = None) -> Topic | None:
    """Choose the named depth images, else the only raw images with 'depth' in their topic.

    Raises:
        BagError: there is no such topic, or more than one; the text lists them.
    """
    if asked == NONE:
        return None
    topics = [topic for topic in bag.image_topics() if topic.type == DEPTH_TYPE]
    if asked:
        return _require(bag, topics, asked, 'topic with raw images')
    named = [topic for topic in topics if 'depth' in topic.name and topic != images]
    if len(named) > 1:
        raise BagError(f'{bag.path} has {len(named)} depth topics, choose one with --depth-topic, '
                       f'or none: {_listed(named)}')
    return named[0] if named else None


def choose_sources(
    bag: Bag, images: str | None = None, odometry: str | None = None, truth: str | None = None,
    camera_info: str | None = None, depth: str | None = NONE,
) -> Sources:
    """Choose all topics of a run; 'none' leaves any but the images out.

    Raises:
        BagError: a named topic does not exist, or there are several to choose from.
    """
    image_topic = choose_image_topic(bag, images)
    truth_topic = choose_truth_topic(bag, truth)
    return Sources(
        image_topic, choose_odometry_topic(bag, odometry, truth_topic), truth_topic,
        choose_camera_info_topic(bag, image_topic, camera_info),
        choose_depth_topic(bag, image_topic, depth))
