"""What a store of keyframes can do, wherever they are kept; its users rely on no more.

`MapFile` (SQLite) and `MilvusStore` (a server) are its kinds. A new kind is one class with these
methods, and a line in `opening`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionSummary,
)
from selavpr_ros.maps.local_codec import EncodedFeatures


class KeyframeStore(Protocol):
    """Keyframes of one model that outlive the program; every method may raise MapError."""

    @property
    def name(self) -> str:
        """Path or address, for people: without passwords."""

    @property
    def uuid(self) -> str:
        """Identity of the map."""

    @property
    def model_id(self) -> str:
        """Id of the model that made the descriptors, see `VprModel.model_id`."""

    @property
    def codec(self) -> str:
        """Codec in which it keeps local features, see `local_codec`."""

    def __len__(self) -> int:
        """Number of keyframes."""

    def add(self, added: Sequence[NewKeyframe]) -> None:
        """Keep keyframes: they outlive the program when this returns."""

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        """Keep the back-end's poses of keyframes; returns how many of the keyframes it has."""

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        """Forget keyframes; returns how many there were."""

    def snapshot(self) -> AbstractContextManager[None]:
        """All that is read inside is one state of the map, where the store can do that."""

    def sessions(self) -> list[Session]:
        """All sessions, in the order of their keyframes."""

    def summaries(self) -> list[SessionSummary]:
        """How much of each session there is, in the same order."""

    def stamps(self, *, with_thumbnail: bool = False) -> Iterator[tuple[KeyframeId, int]]:
        """Ids and stamps in ns of all keyframes, or of those that have a thumbnail.

        Those of a session lie together, the oldest first.
        """

    def whole(self, ids: Sequence[KeyframeId]) -> list[NewKeyframe]:
        """Keyframes with all that belongs to them; those that are not there are left out."""

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        """A small JPEG of a keyframe; empty where it has none."""

    def describe(self) -> dict[str, Any]:
        """What `vpr map-info` tells only of this kind of store, e.g. the bytes of a file."""

    def close(self) -> None:
        """Close the store."""


class Deliveries(Protocol):
    """What of a store still has to be delivered to a shared map; as durable as the store."""

    def new(self, limit: int, after: int = 0) -> dict[int, KeyframeId]:
        """Keyframes that the shared map does not have, by their numbers in the store.

        Args:
            limit: number of keyframes at most, the oldest first.
            after: only those with a higher number.
        """

    def moved(self, limit: int) -> dict[KeyframeId, MapPose]:
        """Poses of the back-end that the shared map does not have."""

    def recalled(self, limit: int) -> list[KeyframeId]:
        """Keyframes that are forgotten here, and that the shared map may still have."""

    def mark_new(self, keyframes: Iterable[Keyframe]) -> None:
        """Note that the shared map has these keyframes."""

    def mark_moved(self, poses: Iterable[tuple[KeyframeId, MapPose]]) -> None:
        """Note that the shared map has these poses."""

    def mark_recalled(self, ids: Iterable[KeyframeId]) -> None:
        """Note that the shared map has forgotten these keyframes."""


class OwnStore(KeyframeStore, Protocol):
    """A store that is a robot's own: a `KeyframeMap` grows in it, and may be shared from it."""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written."""

    @property
    def undelivered(self) -> int:
        """How many keyframes no shared map has acknowledged."""

    def keyframes(self) -> Iterator[Keyframe]:
        """All keyframes, in the order in which they came."""

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        """Local features of a keyframe; None where it has none."""

    def details(self, keyframe_id: KeyframeId) -> tuple[np.ndarray | None, int]:
        """Covariance (36,) of the pose, or None, and the back-end's key, or 0."""

    def set_external_keys(self, keys: Mapping[KeyframeId, int]) -> int:
        """Keep the back-end's keys of keyframes; returns how many of the keyframes it has."""

    def graph(self) -> bytes:
        """The search graph that was kept; empty without."""

    def keep_graph(self, graph: bytes) -> None:
        """Keep the search graph of all keyframes."""

    def unrelated(self) -> str:
        """What `keep_unrelated` kept; empty without."""

    def keep_unrelated(self, text: str) -> None:
        """Keep what was learned of unrelated images, see `Unrelated.to_json`."""

    def save_to(
        self, target: Path, *, overwrite: bool = False, without: Iterable[str] = ()
    ) -> int:
        """Write a copy to a file while the map goes on growing; returns its bytes."""

    def deliveries(self, shared_uuid: str) -> Deliveries:
        """What still has to be delivered to the shared map with this uuid."""

    def forget_delivered(self, ids: Iterable[KeyframeId]) -> list[KeyframeId]:
        """Forget delivered keyframes here, not in the shared map; returns those forgotten."""
