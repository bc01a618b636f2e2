"""What `map_costs` measures, as plain records, and what the map has to keep to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selavpr_ros.maps.local_codec import BINARY, INT8


@dataclass(frozen=True)
class Targets:
    """What the map has to keep to."""

    local_bytes: Mapping[str, int] = field(
        default_factory=lambda: {INT8: 480_000, BINARY: 64_000})
    lost_recall: Mapping[str, float] = field(default_factory=lambda: {INT8: 0.01, BINARY: 0.03})
    binary_speedup: float = 3.0
    search_ms: float = 10.0
    recall: float = 0.99
    insertion_ms: float = 5.0
    opening_s: float = 10.0
    process_bytes: int = 2 << 30


TARGETS = Targets()


@dataclass(frozen=True)
class CodecBytes:
    """Bytes of a keyframe: its local features alone, and all of it in the map file."""

    system: str
    codec: str
    local: int
    in_file: float
    with_thumbnail: float


@dataclass(frozen=True)
class CodecTime:
    """Median milliseconds to match one candidate."""

    system: str
    codec: str
    candidate_ms: float


@dataclass(frozen=True)
class CodecRecall:
    """Recall@1, re-ranked; with the codec 'none' by similarity alone."""

    model_id: str
    set: str
    queries: int
    codec: str
    recall_1: float


@dataclass(frozen=True)
class SizeCosts:
    """A map of one size with one kind of index.

    Attributes:
        size: keyframes.
        index: kind that was asked for.
        in_use: kind that searches at this size.
        search_ms, search_p95_ms: of the 20 best, the newest 20 keyframes left out.
        recall_1, recall_20: share of the best one, and of the 20 best ones, that is found.
        insertion_ms, insertion_p95_ms: of a keyframe with binary local features, on the disk.
        index_insertion_ms: of its descriptor into the index alone.
        opening_s: of the file, not in the system's cache, with the graph that was kept.
        memory_bytes: descriptors and index.
        opening_without_graph_s: where the graph has to be made again; None for other kinds.
        keeping_graph_s: writing it, with every 5000th keyframe; None for other kinds.
    """

    size: int
    index: str
    in_use: str
    search_ms: float
    search_p95_ms: float
    recall_1: float
    recall_20: float
    insertion_ms: float
    insertion_p95_ms: float
    index_insertion_ms: float
    opening_s: float
    memory_bytes: int
    opening_without_graph_s: float | None = None
    keeping_graph_s: float | None = None


@dataclass(frozen=True)
class ProcessMemory:
    """A program that holds a model and a map, whose local features it has read once.

    Attributes:
        keyframes: of the map.
        loaded_bytes: before the map was opened, with the model.
        peak_bytes: the most, from start to end.
        opening_s: of the map, its local features on the disk.
        reading_ms: median, of the local features of one keyframe.
    """

    keyframes: int
    loaded_bytes: int
    peak_bytes: int
    opening_s: float
    reading_ms: float


@dataclass(frozen=True)
class Estimate:
    """A map that is too large to be measured here, by what was measured of smaller ones."""

    index: str
    size: int
    search_ms: float
    insertion_ms: float
    opening_s: float
    memory_bytes: float


@dataclass
class MapCosts:
    """All of it, filled by `measure_all`.

    Attributes:
        bytes, times, recalls: by codec.
        object_bytes: that Python takes for a keyframe, without its descriptor.
        sizes: by size and kind of index.
        process: None where it is left out.
        estimates: of a map that is too large to be measured.
        left_out: by part, why it is missing.
        seconds: by part, how long it took to measure it.
    """

    bytes: list[CodecBytes] = field(default_factory=list)
    object_bytes: float = 0.0
    times: list[CodecTime] = field(default_factory=list)
    recalls: list[CodecRecall] = field(default_factory=list)
    sizes: list[SizeCosts] = field(default_factory=list)
    process: ProcessMemory | None = None
    estimates: list[Estimate] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
