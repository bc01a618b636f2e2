"""Bytes of a keyframe, time of matching and recall by codec."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from selavpr_ros.evaluation.map_costs.drive import Drive, random_features, write_map
from selavpr_ros.evaluation.map_costs.results import CodecBytes, CodecRecall, CodecTime
from selavpr_ros.evaluation.measure import alike_features
from selavpr_ros.evaluation.recall import GLOBAL, RERANKED, evaluate_codecs
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.maps.local_codec import (
    BINARY,
    CODECS,
    FLOAT16,
    INT8,
    NONE,
    EncodedFeatures,
    encode,
)
from selavpr_ros.matching.mutual import count_encoded_matches
from selavpr_ros.models import VprModel
from selavpr_ros.models.footprint import Footprint

THUMBNAIL_BYTES = 4000  # JPEGs, 160 pixels wide, of photographs have 3000 to 5300


def measure_bytes(
    system: str, footprint: Footprint, folder: Path, keyframes: int
) -> Iterator[CodecBytes]:
    """Write a map with every codec, without thumbnails and with them."""
    drive = Drive(keyframes, footprint.global_dim)

    def in_file(local: EncodedFeatures | None, thumbnail: bytes) -> float:
        with TemporaryDirectory(dir=folder) as here:
            path = Path(here) / 'map.vprmap'
            write_map(path, drive.chunks(keyframes), local, thumbnail=thumbnail)
            return path.stat().st_size / keyframes

    for codec in CODECS if footprint.local_count else (NONE,):
        local = random_features(footprint, codec)
        yield CodecBytes(system, codec, local.nbytes if local else 0, in_file(local, b''),
                         in_file(local, bytes(THUMBNAIL_BYTES)))


def measure_matching(
    system: str, footprint: Footprint, repetitions: int, candidates: int = 3
) -> list[CodecTime]:
    """Match candidates of every codec in turn, so that other load slows all codecs alike."""
    query, matches = alike_features(candidates, footprint.local_count, footprint.local_dim)
    kept = {codec: [encode(match, codec) for match in matches]
            for codec in (FLOAT16, INT8, BINARY)}
    times: dict[str, list[float]] = {codec: [] for codec in kept}
    for _ in range(1 + repetitions):
        for codec, encoded in kept.items():
            start = time.perf_counter()
            count_encoded_matches(query, encoded)
            times[codec].append((time.perf_counter() - start) * 1e3 / candidates)
    return [CodecTime(system, codec, statistics.median(spent[1:]))
            for codec, spent in times.items()]


def measure_recall(
    model: VprModel, asked: EvaluationSet, *, progress: bool = False
) -> Iterator[CodecRecall]:
    """Recall@1 with every codec; with 'none' there are no local features to order by."""
    for codec, evaluation in evaluate_codecs(model, asked, CODECS, progress=progress).items():
        way = RERANKED if RERANKED in evaluation.rankings else GLOBAL
        yield CodecRecall(model.model_id, asked.name, len(asked.answerable), codec,
                          evaluation.recall_at(1, way))
