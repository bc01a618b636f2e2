"""Runs the images of a bag through the same PlaceRecognizer as the live node."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from selavpr_ros.errors import DepthError, DescriptorError, ImageError, StampError, VprError
from selavpr_ros.images.decoding import ImageReader
from selavpr_ros.matching.query import NO_CONTEXT, Context
from selavpr_ros.place_recognizer import PlaceRecognizer, Recognition
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import QueryRecord, Run

SKIPPED_KINDS: dict[type[VprError], str] = {
    ImageError: 'bad image', DepthError: 'bad image', StampError: 'stamp out of order',
    DescriptorError: 'image without descriptor'}

logger = logging.getLogger(__name__)


def _log(recognition: Recognition) -> None:
    if recognition.odometry_jump:
        logger.warning('image at %d ns: %s', recognition.query.stamp_ns,
                       recognition.odometry_jump)
    for closure in recognition.loop_closures:
        match = closure.candidate.match
        logger.info('image at %d ns: loop closure with keyframe %s, similarity %.3f, %d matches',
                    closure.query.stamp_ns, match.keyframe.id, match.similarity,
                    match.local_matches)


def _no_context(_: int) -> Context:
    return NO_CONTEXT


def replay(
    images: Iterable[tuple[int, Any]], recognizer: PlaceRecognizer, run: Run,
    odometry: PoseTrack | None = None, context_at: Callable[[int], Context] = _no_context,
) -> Iterator[QueryRecord]:
    """Recognise image after image, and record everything in `run`.

    Args:
        images: stamp in ns and message, from `Bag.images`.
        recognizer: decides by `is_due` which images are queries, as in the node.
        run: gets every query and keyframe, and counts the images that cannot be used.
        odometry: the recording's poses.
        context_at: returns the context of the image with a stamp in ns.

    Yields:
        Each query when it is done; `run` is up to date then.
    """
    track, read_image = odometry or PoseTrack(), ImageReader(recognizer.settings.image)
    run.model_id = recognizer.model.model_id
    told: set[str] = set()
    for stamp_ns, message in images:
        run.images += 1
        pose = track.at(stamp_ns)
        if not recognizer.is_due(stamp_ns, pose):
            continue
        try:
            recognition = recognizer.recognize(
                read_image(message), stamp_ns, pose, context_at(stamp_ns))
        except (ImageError, StampError, DescriptorError) as error:
            run.skipped[SKIPPED_KINDS[type(error)]] += 1
            run.first_error = run.first_error or str(error)
            logger.warning('image at %d ns skipped: %s', stamp_ns, error)
            continue
        left_out = recognition.query.context.calibration_error
        if left_out and str(left_out) not in told:
            told.add(str(left_out))
            logger.warning('camera_info is not used: %s', left_out)
        run.map_nbytes = recognizer.keyframe_map.nbytes
        query = run.add(recognition)
        _log(recognition)
        yield query
