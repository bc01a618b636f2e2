"""What a bag tells of its images besides pixels and poses; the node receives the same live."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from selavpr_ros.errors import CalibrationError, ImageError
from selavpr_ros.images.camera import (
    DEPTH_KEPT,
    DEPTH_SYNC_NS,
    Camera,
    camera_from_info,
    is_rectified,
    nearest_depth,
)
from selavpr_ros.matching.query import NO_CONTEXT, Context
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.topics import Sources
from selavpr_ros.settings import Settings

# So many messages are tried: a driver that starts may send a few that are empty.
INFOS_TRIED = 100

logger = logging.getLogger(__name__)


class RecordedContext:
    """The calibration of a bag's camera, its depth images and the name of its odometry frame.

    Args:
        bag: an open bag; depth is read along with the images.
        sources: its topics; without `depth`, no depth images are read.
        settings: the settings of the recogniser.
    """

    def __init__(self, bag: Bag, sources: Sources, settings: Settings) -> None:
        odometry = bag.first(sources.odometry.name) if sources.odometry else None
        told = odometry.header.frame_id if odometry else ''
        self._frame = told or NO_CONTEXT.pose_frame
        self._told: set[str] = set()
        self._camera = _read_camera(bag, sources, settings)
        self._coming: Iterator[tuple[int, Any]] = (
            bag.stamped(sources.depth.name) if sources.depth else iter(()))
        self._depth: deque[tuple[int, Any]] = deque(maxlen=DEPTH_KEPT)

    def at(self, stamp_ns: int) -> Context:
        """Context of the image with this stamp; stamps have to increase."""
        while not self._depth or self._depth[-1][0] <= stamp_ns + DEPTH_SYNC_NS:
            stamped = next(self._coming, None)
            if stamped is None:
                break
            self._depth.append(stamped)
        return Context(pose_frame=self._frame, camera=self._camera,
                       depth_m=self._find_depth(stamp_ns))

    def _find_depth(self, stamp_ns: int) -> np.ndarray | None:
        try:
            return nearest_depth(self._depth, stamp_ns)
        except ImageError as error:
            if str(error) not in self._told:
                self._told.add(str(error))
                logger.warning('depth is not used: %s', error)
            return None


def _read_camera(bag: Bag, sources: Sources, settings: Settings) -> Camera | None:
    # A calibration holds for the image as it comes, not for a rotated one.
    if (sources.camera_info is None or settings.image.rotate_deg
            or settings.verify.geometry == 'none'):
        return None
    rectified = is_rectified(sources.images.name)
    told: CalibrationError | None = None
    for _, message in islice(bag.stamped(sources.camera_info.name), INFOS_TRIED):
        try:
            return camera_from_info(message, rectified=rectified)
        except CalibrationError as error:
            told = error
    if told:
        logger.warning('%s is not used: %s', sources.camera_info.name, told)
    return None
