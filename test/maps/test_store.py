"""A store of another kind: map, merging and map-info need no more than the protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from maps import MODEL, assert_same_keyframe, assert_same_local, make_keyframe

from selavpr_ros.cli.main import main
from selavpr_ros.maps import merge, opening
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionSummary,
)
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.maps.local_codec import FLOAT16, EncodedFeatures
from selavpr_ros.maps.store import Deliveries, OwnStore


class Shelf:
    """A store in a dictionary, which stays when the map is closed."""

    name, uuid, model_id, codec = 'a shelf', '0123456789abcdef', MODEL, FLOAT16
    read_only, undelivered = False, 0

    def __init__(self) -> None:
        self.kept: dict[KeyframeId, NewKeyframe] = {}
        self.notes = {'graph': b'', 'unrelated': ''}

    def __len__(self) -> int:
        return len(self.kept)

    def add(self, added: Sequence[NewKeyframe]) -> None:
        self.kept |= {new.keyframe.id: new for new in added}

    def set_map_poses(self, poses: Mapping[KeyframeId, MapPose]) -> int:
        for keyframe_id, pose in poses.items():
            new = self.kept[keyframe_id]
            self.kept[keyframe_id] = replace(new, keyframe=replace(new.keyframe, map_pose=pose))
        return len(poses)

    def remove(self, ids: Iterable[KeyframeId]) -> int:
        return sum(self.kept.pop(keyframe_id, None) is not None for keyframe_id in ids)

    def snapshot(self) -> AbstractContextManager[None]:
        return nullcontext()

    def sessions(self) -> list[Session]:
        return list(dict.fromkeys(new.session for new in self.kept.values()))

    def summaries(self) -> list[SessionSummary]:
        return [SessionSummary(session, len(all_of_it), all_of_it[-1].keyframe.stamp_ns, 0, 0)
                for session in self.sessions()
                for all_of_it in [[n for n in self.kept.values() if n.session == session]]]

    def stamps(self, *, with_thumbnail: bool = False) -> Iterator[tuple[KeyframeId, int]]:
        return iter([(i, new.keyframe.stamp_ns) for i, new in self.kept.items()])

    def whole(self, ids: Sequence[KeyframeId]) -> list[NewKeyframe]:
        return [self.kept[keyframe_id] for keyframe_id in ids if keyframe_id in self.kept]

    def thumbnail(self, keyframe_id: KeyframeId) -> bytes:
        return self.kept[keyframe_id].thumbnail

    def describe(self) -> dict[str, Any]:
        return {'boards': 3}

    def close(self) -> None:
        pass

    # ---- of a robot's own ----------------------------------------------------------------------

    def keyframes(self) -> Iterator[Keyframe]:
        return (new.keyframe for new in self.kept.values())

    def local_features(self, keyframe_id: KeyframeId) -> EncodedFeatures | None:
        return self.kept[keyframe_id].local

    def details(self, keyframe_id: KeyframeId) -> tuple[np.ndarray | None, int]:
        return self.kept[keyframe_id].covariance, self.kept[keyframe_id].external_key

    def set_external_keys(self, keys: Mapping[KeyframeId, int]) -> int:
        return 0

    def graph(self) -> bytes:
        return b''

    def keep_graph(self, graph: bytes) -> None:
        pass

    def unrelated(self) -> str:
        return str(self.notes['unrelated'])

    def keep_unrelated(self, text: str) -> None:
        self.notes['unrelated'] = text

    def save_to(
        self, target: Path, *, overwrite: bool = False, without: Iterable[str] = ()
    ) -> int:
        return 0

    def deliveries(self, shared_uuid: str) -> Deliveries:
        raise NotImplementedError

    def forget_delivered(self, ids: Iterable[KeyframeId]) -> list[KeyframeId]:
        return []


@pytest.fixture
def shelf() -> OwnStore:
    found = Shelf()
    found.add([make_keyframe(number) for number in range(1, 6)])
    return found


def test_a_map_grows_in_it(shelf: OwnStore) -> None:
    found = KeyframeMap(shelf)
    found.add(make_keyframe(6))
    assert found.set_map_poses({}) == 0
    assert found.remove([KeyframeId(1, 2)]) == 1
    found.unrelated = 'something'
    found.close()
    again = KeyframeMap(shelf)
    assert [k.id.keyframe_id for k in again] == [1, 3, 4, 5, 6]
    assert again.unrelated == 'something'
    wanted = make_keyframe(6)
    best = again.search(wanted.keyframe.global_descriptor, 1)[0].keyframe
    assert_same_keyframe(shelf, best, wanted)
    assert_same_local(again.local_features(best.id), wanted.local)


def test_it_is_merged(
    shelf: OwnStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, 'open_store', lambda name: shelf)
    merged = merge.merge_maps(['shelf'], tmp_path / 'map')
    assert [(m.source, m.keyframes) for m in merged] == [('a shelf', 5)]
    with MapFile(tmp_path / 'map') as file:
        for keyframe, number in zip(file.keyframes(), range(1, 6), strict=True):
            assert_same_keyframe(file, keyframe, make_keyframe(number))


def test_it_is_described(
    shelf: OwnStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(opening, 'open_store', lambda name: shelf)
    assert main(['map-info', 'shelf']) == 0
    assert 'map        a shelf\n' in capsys.readouterr().out
    assert main(['map-info', 'shelf', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['keyframes'], facts['boards'], len(facts['sessions'])) == (5, 3, 1)
