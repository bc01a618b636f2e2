from __future__ import annotations

from contextlib import closing

import pytest
from maps import make_keyframe, make_map_file

from selavpr_ros.maps.file.deliveries import Deliveries
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.keyframe import KeyframeId, MapPose
from selavpr_ros.pose import Pose

MOVED, AGAIN = (MapPose('map', Pose.planar(x, 2.0, 0.5)) for x in (1.0, 3.0))


def ids(*numbers: int) -> list[KeyframeId]:
    return [KeyframeId(1, number) for number in numbers]


def numbered(*numbers: int) -> dict[int, KeyframeId]:
    """In the file's numbers, which here are the keyframes'."""
    return dict(zip(numbers, ids(*numbers), strict=True))


@pytest.fixture
def file(tmp_path):
    with make_map_file(tmp_path / 'own.vprmap', 5) as opened:
        yield opened


def deliver(file: MapFile, waiting: Deliveries, *numbers: int) -> None:
    waiting.mark_new([new.keyframe for new in file.whole(ids(*numbers))])


def test_new_keyframes_until_they_are_marked(file):
    waiting = file.deliveries('fleet')
    assert waiting.new(3) == numbered(1, 2, 3)
    assert waiting.new(3, after=2) == numbered(3, 4, 5)
    deliver(file, waiting, 1, 3)
    assert waiting.new(9) == numbered(2, 4, 5)
    assert file.undelivered == 3
    file.add([make_keyframe(6)])
    assert waiting.new(9) == numbered(2, 4, 5, 6)


def test_marks_survive_and_belong_to_one_shared_map(file):
    deliver(file, file.deliveries('fleet'), 1, 2, 3, 4)
    file.remove(ids(4))
    path = file.path
    file.close()
    with closing(MapFile(path)) as again:
        assert again.deliveries('fleet').new(9) == numbered(5)
        assert again.deliveries('fleet').recalled(9) == ids(4)
        other = again.deliveries('another fleet')
        assert (other.new(9), other.recalled(9)) == (numbered(1, 2, 3, 5), [])
        assert again.manifest.codec == 'float16'  # the manifest can still be read


def test_poses_of_what_was_delivered(file):
    waiting = file.deliveries('fleet')
    file.set_map_poses({KeyframeId(1, 1): MOVED, KeyframeId(1, 2): MOVED})
    assert waiting.moved(9) == {}  # they go with the keyframes
    deliver(file, waiting, 1, 3)
    assert waiting.moved(9) == {}
    file.set_map_poses({KeyframeId(1, 1): AGAIN, KeyframeId(1, 3): MOVED})
    assert waiting.moved(9) == {KeyframeId(1, 1): AGAIN, KeyframeId(1, 3): MOVED}
    assert len(waiting.moved(1)) == 1
    waiting.mark_moved([(KeyframeId(1, 1), AGAIN), (KeyframeId(1, 3), MOVED)])
    assert waiting.moved(9) == {}


def test_a_pose_that_came_while_the_last_one_was_on_its_way(file):
    waiting = file.deliveries('fleet')
    on_its_way = file.whole(ids(1))[0].keyframe
    file.set_map_poses({KeyframeId(1, 1): MOVED})
    waiting.mark_new([on_its_way])
    assert waiting.moved(9) == {KeyframeId(1, 1): MOVED}
    file.set_map_poses({KeyframeId(1, 1): AGAIN})
    waiting.mark_moved([(KeyframeId(1, 1), MOVED)])
    assert waiting.moved(9) == {KeyframeId(1, 1): AGAIN}


def test_what_is_forgotten_is_recalled(file):
    waiting = file.deliveries('fleet')
    deliver(file, waiting, 1, 2)
    assert file.remove(ids(2, 3)) == 2  # the third may be there, its mark not yet made
    assert waiting.recalled(9) == ids(2, 3)
    assert waiting.recalled(1) == ids(2)
    waiting.mark_recalled(ids(2, 3))
    assert waiting.recalled(9) == []
    assert waiting.new(9) == numbered(4, 5)


def test_a_map_that_is_not_shared_recalls_nothing(file):
    file.remove(ids(1))
    assert file.database.select('SELECT * FROM recalled') == []


def test_what_is_forgotten_on_its_way_is_recalled(file):
    waiting = file.deliveries('fleet')
    on_its_way = file.whole(ids(1))[0].keyframe
    file.remove(ids(1))
    waiting.mark_new([on_its_way])
    assert waiting.recalled(9) == ids(1)
    assert file.whole(ids(1)) == []


def test_what_is_forgotten_here_stays_there(file):
    waiting = file.deliveries('fleet')
    deliver(file, waiting, 1, 2)
    assert file.forget_delivered(ids(1, 2, 3)) == ids(1, 2)
    assert waiting.recalled(9) == []
    assert [k.id for k in file.keyframes()] == ids(3, 4, 5)
    assert waiting.new(9) == numbered(3, 4, 5)
