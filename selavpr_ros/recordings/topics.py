"""Chooses the topics of a bag that the user does not name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selavpr_ros.errors import BagError, DepthError, ImageError
from selavpr_ros.images.decoding import ImageReader
from selavpr_ros.recordings.bag import IMAGE_TYPES, ODOMETRY_TYPE, Bag, Topic
from selavpr_ros.settings import ImageSettings

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


def _first(bag: Bag, topic: Topic) -> Any:
    """The first message; one that cannot be read is counted only when the topic is read."""
    skipped = bag.skipped.copy()
    first = next(bag.stamped(topic.name), (0, None))[1]
    bag.skipped = skipped
    return first


def _why_depth(bag: Bag, topic: Topic, encoding: str = '') -> str:
    """Why the images of a topic are depth, by the first of them; empty if they are not."""
    first = _first(bag, topic)
    try:
        if first is not None:
            ImageReader(ImageSettings(encoding_override=encoding), topic=topic.name)(first)
    except DepthError as error:
        return str(error)
    except ImageError:  # of a camera, but damaged: that is told when the topic is read
        pass
    return ''


def _choose_asked(bag: Bag, asked: str, encoding: str) -> Topic:
    topic = _require(bag, bag.image_topics(), asked, 'image topic')
    why = _why_depth(bag, topic, encoding)
    if why:
        raise BagError(f'{topic.name} of {bag.path} cannot be the camera: {why}')
    return topic


def choose_image_topic(bag: Bag, asked: str | None = None, encoding: str = '') -> Topic:
    """Choose the named image topic, or the only one that has images; depth is none.

    Args:
        bag: an open bag.
        asked: name of the topic, or None.
        encoding: the setting image.encoding_override.

    Raises:
        BagError: there is no such topic, no image, more than one topic, or only depth; the text
            lists them.
    """
    topics = bag.image_topics()
    if asked is not None:
        return _choose_asked(bag, asked, encoding)
    filled = [topic for topic in topics if topic.count]
    if not filled:
        raise BagError(f'{bag.path} holds no images; its topics are: {_listed(bag.topics())}')
    depth = {topic.name: _why_depth(bag, topic, encoding) for topic in filled}
    cameras = [topic for topic in filled if not depth[topic.name]]
    if not cameras:
        raise BagError(f'{bag.path} holds no images of a camera: {next(iter(depth.values()))}; '
                       f'its image topics are: {_listed(filled)}')
    if len(cameras) > 1:
        raise BagError(f'{bag.path} has {len(cameras)} image topics, choose one with --topic: '
                       f'{_listed(cameras)}')
    return cameras[0]


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
    """Choose the named depth images, else the only raw ones that are depth.

    Of several, those with 'depth' in their topic come first: disparity and confidence look alike.

    Raises:
        BagError: there is no such topic, or more than one; the text lists them.
    """
    if asked == NONE:
        return None
    topics = [topic for topic in bag.image_topics() if topic.type == DEPTH_TYPE]
    if asked:
        return _require(bag, topics, asked, 'topic with raw images')
    depth = [topic for topic in topics if topic != images and _why_depth(bag, topic)]
    depth = [topic for topic in depth if 'depth' in topic.name] or depth
    if len(depth) > 1:
        raise BagError(f'{bag.path} has {len(depth)} depth topics, choose one with --depth-topic, '
                       f'or none: {_listed(depth)}')
    return depth[0] if depth else None


def choose_sources(
    bag: Bag, images: str | None = None, odometry: str | None = None, truth: str | None = None,
    camera_info: str | None = None, depth: str | None = NONE, encoding: str = '',
) -> Sources:
    """Choose all topics of a run; 'none' leaves any but the images out.

    `encoding` is the setting image.encoding_override.

    Raises:
        BagError: a named topic does not exist, or there are several to choose from.
    """
    image_topic = choose_image_topic(bag, images, encoding)
    truth_topic = choose_truth_topic(bag, truth)
    return Sources(
        image_topic, choose_odometry_topic(bag, odometry, truth_topic), truth_topic,
        choose_camera_info_topic(bag, image_topic, camera_info),
        choose_depth_topic(bag, image_topic, depth))
