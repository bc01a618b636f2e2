"""Which topics of a bag to use, where the user does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selavpr_ros.errors import BagError
from selavpr_ros.replay.bag import ODOMETRY_TYPE, Bag, Topic

NONE = 'none'
TRUTH_TOPIC = '/ground_truth/odom'


@dataclass(frozen=True)
class Sources:
    """The topics of a bag that a run reads."""

    images: Topic
    odometry: Topic | None
    truth: Topic | None


def _listed(topics: Sequence[Topic]) -> str:
    return '; '.join(map(str, topics)) or 'none at all'


def _find(topics: Sequence[Topic], asked: str) -> Topic | None:
    """The topic of that name; the slash in front may be left out."""
    return next((t for t in topics if t.name in (asked, f'/{asked}')), None)


def choose_image_topic(bag: Bag, asked: str | None = None) -> Topic:
    """Take the asked image topic, or the only one that has images.

    Raises:
        BagError: there is no such topic, no image at all, or a choice; the text lists them.
    """
    topics = bag.image_topics()
    if asked is not None:
        found = _find(topics, asked)
        if found is None:
            raise BagError(
                f'{bag.path} has no image topic {asked}; its image topics are: {_listed(topics)}')
        return found
    filled = [topic for topic in topics if topic.count]
    if not filled:
        raise BagError(f'{bag.path} holds no images; its topics are: {_listed(bag.topics())}')
    if len(filled) > 1:
        raise BagError(f'{bag.path} has {len(filled)} image topics, choose one with --topic: '
                       f'{_listed(filled)}')
    return filled[0]


def _choose_pose_topic(bag: Bag, asked: str) -> Topic:
    found = _find(bag.pose_topics(), asked)
    if found is None:
        raise BagError(f'{bag.path} has no topic {asked} with poses; its topics with poses are: '
                       f'{_listed(bag.pose_topics())}')
    return found


def choose_truth_topic(bag: Bag, asked: str | None = None) -> Topic | None:
    """Take the asked topic with true poses, or /ground_truth/odom where there is one.

    Raises:
        BagError: there is no such topic; the text lists those with poses.
    """
    if asked == NONE:
        return None
    return _choose_pose_topic(bag, asked) if asked else _find(bag.pose_topics(), TRUTH_TOPIC)


def choose_odometry_topic(
    bag: Bag, asked: str | None = None, truth: Topic | None = None
) -> Topic | None:
    """Take the asked odometry, else the only one, else one named odom; never the ground truth.

    Raises:
        BagError: there is no such topic, or a choice; the text lists them.
    """
    if asked == NONE:
        return None
    if asked:
        return _choose_pose_topic(bag, asked)
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


def choose_sources(
    bag: Bag, images: str | None = None, odometry: str | None = None, truth: str | None = None
) -> Sources:
    """Choose all topics of a run; 'none' leaves odometry or ground truth out.

    Raises:
        BagError: an asked topic is not there, or there are several to choose from.
    """
    image_topic = choose_image_topic(bag, images)
    truth_topic = choose_truth_topic(bag, truth)
    return Sources(image_topic, choose_odometry_topic(bag, odometry, truth_topic), truth_topic)
