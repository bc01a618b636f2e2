"""What `map_costs` measures, as plain records, and the targets for the map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selavpr_ros.maps.local_codec import BINARY, INT8


@dataclass(frozen=True)
class Targets:
    """Limits that the map has to meet; the mappings are by codec."""

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
        size: number of keyframes.
        index: kind of index that was asked for.
        in_use: kind of index that searches at this size.
        search_ms, search_p95_ms: median and 95th percentile of a search for the 20 best
            keyframes, without the newest 20.
        recall_1, recall_20: share of the best one, and of the 20 best ones, that is found.
        insertion_ms, insertion_p95_ms: median and 95th percentile of writing a keyframe with
            binary local features to the disk.
        index_insertion_ms: median of adding a descriptor to the index alone.
        opening_s: time to open a file that is not in the system's cache, with its stored graph.
        memory_bytes: memory of the descriptors and the index.
        opening_without_graph_s: time to open if the graph has to be rebuilt; None for an index
            without a graph.
        keeping_graph_s: time to write the graph, as with every 5000th keyframe; None for an index
            without a graph.
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
        keyframes: size of the map.
        loaded_bytes: memory with the model, before the map was opened.
        peak_bytes: largest memory from start to end.
        opening_s: time to open the map, whose local features stay on the disk.
        reading_ms: median time to read the local features of one keyframe.
    """

    keyframes: int
    loaded_bytes: int
    peak_bytes: int
    opening_s: float
    reading_ms: float


@dataclass(frozen=True)
class Estimate:
    """Costs of a map that is too large to be measured, extrapolated from smaller ones."""

    index: str
    size: int
    search_ms: float
    insertion_ms: float
    opening_s: float
    memory_bytes: float


@dataclass
class MapCosts:
    """All costs, filled by `measure_all`.

    Attributes:
        bytes, times, recalls: costs by system and codec.
        object_bytes: bytes that Python objects take per keyframe, without its descriptor.
        sizes: costs by size and kind of index.
        process: memory of a program that uses a map; None if left out.
        estimates: costs of a map that is too large to be measured, by kind of index.
        left_out: why a part is missing, by part.
        seconds: how long the measurement took, by part.
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
