"""The map's services and its file, asked of a live node over DDS."""

from __future__ import annotations

import pytest
from geometry_msgs.msg import Point
from geometry_msgs.msg import Pose as PoseMessage
from live import send_places, wait_until
from maps import fill_disk, small_disk
from rclpy.lifecycle import TransitionCallbackReturn
from std_srvs.srv import Trigger

from selavpr_msgs.msg import KeyframeId, KeyframePoses, VprStatus
from selavpr_msgs.srv import (
    AddExternalKeys,
    GetKeyframes,
    LoadMap,
    RemoveKeyframes,
    SaveMap,
    SetKeyframePoses,
    SetMode,
    StartSession,
)
from selavpr_ros.maps.file.map_file import MapFile


@pytest.fixture
def call(listener):
    """(kind, name, fields) -> answer of ~/name."""
    return lambda kind, name, **fields: listener.call(
        kind, f'/vpr/{name}', kind.Request(**fields))


def clean_up(node):
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS


def stored(path):
    """Ids of the keyframes in a map file, e.g. ['1:1', '1:2']."""
    with MapFile(path, read_only=True) as file:
        return [str(keyframe.id) for keyframe in file.keyframes()]


def wait_until_stored(path, ids):
    """Candidates are published before their keyframe is written."""
    wait_until(lambda: stored(path) == ids, f'{ids} in the file')


def test_a_second_run_closes_loops_with_the_first(listener, eager, start_node, tmp_path):
    path = tmp_path / 'office.vprmap'
    node = eager(map__path=str(path))
    send_places(listener, [1, 2, 3])
    wait_until_stored(path, ['1:1', '1:2', '1:3'])  # while the node runs
    wait_until(lambda: listener.status.map_path == str(path), 'the status to name the file')
    clean_up(node)

    other = eager(map__path=str(path), map__local_codec='binary')
    assert other.recognizer.codec == 'float16'  # of the map that exists
    send_places(listener, [3, 7], first_s=100)
    edge = wait_until(lambda: listener.received['closures'], 'a loop closure')[0]
    assert (edge.keyframe_from.session_id, edge.keyframe_from.keyframe_id) == (1, 3)
    assert (edge.keyframe_to.session_id, edge.inter_session) == (2, True)
    wait_until_stored(path, ['1:1', '1:2', '1:3', '2:1', '2:2'])


@pytest.mark.parametrize(('make', 'words'), [
    (lambda path: path.write_text('dear diary'), 'it is a file of another program'),
    (lambda path: path.mkdir(), 'it is a folder: name a file in it'),
    (lambda path: MapFile(path.parent / 'x' / 'y.vprmap'), ''),
])
def test_a_map_that_cannot_be_opened_refuses_to_configure(start_node, tmp_path, make, words):
    path = tmp_path / 'map.vprmap'
    if words:
        make(path)
    else:
        path, words = tmp_path / 'none' / 'map.vprmap', 'there is no folder'
    node = start_node(map__path=str(path))
    assert words in node.last_error


def test_another_model_refuses_to_configure(eager, start_node, listener, tmp_path):
    path = str(tmp_path / 'map.vprmap')
    node = eager(map__path=path)
    send_places(listener, [1])
    clean_up(node)
    other = start_node(map__path=path, model__input_size=[120, 160])
    assert 'its descriptors are of model hog/' in other.last_error
    assert 'set model.weights to that model, or map.path to a new file' in other.last_error


def test_a_copy_is_saved_and_loaded_again(listener, eager, call, tmp_path):
    node = eager()  # without map.path
    send_places(listener, [1, 2])
    path = tmp_path / 'copy.vprmap'
    answer = call(SaveMap, 'save_map', path=str(path), include_local=True)
    assert (answer.success, answer.keyframes) == (True, 2), answer.message
    assert answer.bytes == path.stat().st_size > 2 * 999 * 128 * 2
    again = call(SaveMap, 'save_map', path=str(path))
    assert (again.success, 'exists already' in again.message) == (False, True)

    answer = call(Trigger, 'clear_map')
    assert (answer.success, answer.message) == (True, '2 keyframes forgotten')
    missing = call(LoadMap, 'load_map', path=str(tmp_path / 'none.vprmap'))
    assert (missing.success, 'no such map' in missing.message) == (False, True)
    answer = call(LoadMap, 'load_map', path=str(path))
    assert (answer.success, answer.keyframes, answer.sessions) == (True, 2, 1), answer.message
    send_places(listener, [2], first_s=50)
    assert listener.candidates[-1].matches[0].match.keyframe_id == 2
    wait_until_stored(path, ['1:1', '1:2', '2:1'])
    assert node.recognizer.settings.map.path == str(path)


def test_a_map_that_is_only_read_does_not_grow(listener, eager, call, tmp_path):
    path = tmp_path / 'map.vprmap'
    eager()
    send_places(listener, [1, 2])
    assert call(SaveMap, 'save_map', path=str(path), include_local=True).success
    before = path.read_bytes()
    answer = call(LoadMap, 'load_map', path=str(path), mode=LoadMap.Request.READ_ONLY)
    assert answer.success, answer.message
    send_places(listener, [2, 5], first_s=50)
    assert listener.candidates[-2].matches[0].match.keyframe_id == 2
    listener.wait_for_diagnostic('Map', 'no keyframe is added: the map is read-only')
    assert path.read_bytes() == before


def test_sessions_and_modes(listener, eager, call):
    eager()
    send_places(listener, [1])
    answer = call(StartSession, 'start_session', label='evening')
    assert (answer.success, answer.session_id) == (True, 2)
    send_places(listener, [2], first_s=20)
    assert listener.received['keyframes'][-1].id.session_id == 2
    assert not call(SetMode, 'set_mode', mode=9).success
    assert call(SetMode, 'set_mode', mode=SetMode.Request.LOCALIZATION).success
    send_places(listener, [3], first_s=30)
    answer = listener.candidates[-1]
    assert (answer.mode, answer.query.keyframe_id) == (answer.LOCALIZATION, 0)
    wait_until(lambda: listener.status.mode == 1, 'the status to follow')
    assert call(SetMode, 'set_mode', mode=SetMode.Request.MAPPING).success
    send_places(listener, [4], first_s=40)
    wait_until(lambda: len(listener.received['keyframes']) == 3, 'a keyframe again')


def test_poses_keys_and_pictures_of_keyframes(listener, eager, call, capfd):
    eager(frames__base_to_camera=[0.25, 0.0, 1.0, -0.5, 0.5, -0.5, 0.5])
    wait_until(lambda: 'only with verify.geometry' in capfd.readouterr().err, 'a warning')
    send_places(listener, [1, 2, 3])
    poses = KeyframePoses(
        ids=[KeyframeId(session_id=1, keyframe_id=2), KeyframeId(session_id=5, keyframe_id=5)],
        poses=[PoseMessage(position=Point(x=4.0)), PoseMessage()])
    assert 'header.frame_id is empty' in call(
        SetKeyframePoses, 'set_keyframe_poses', poses=poses).message
    poses.header.frame_id = 'building'
    answer = call(SetKeyframePoses, 'set_keyframe_poses', poses=poses)
    assert (answer.success, answer.updated) == (True, 1), answer.message
    poses.ids[1].session_id, poses.ids[1].keyframe_id = 1, 3
    listener.send('/keyframe_poses', poses)

    named = KeyframeId(session_id=1, keyframe_id=2, external_key=2**63 + 5)
    assert call(AddExternalKeys, 'add_external_keys', ids=[named]).updated == 1

    def moved():
        answer = call(GetKeyframes, 'get_keyframes', use_position=True, radius=1.0)
        return answer.keyframes

    assert [k.id.keyframe_id for k in wait_until(moved, 'the pose of keyframe 3')] == [3]
    answer = call(GetKeyframes, 'get_keyframes', thumbnails=True,
                  ids=[KeyframeId(session_id=1, keyframe_id=2)])
    keyframe, = answer.keyframes
    assert (keyframe.pose_frame, keyframe.pose.pose.position.x) == ('building', 4.0)
    assert keyframe.id.external_key == 2**63 + 5
    assert bytes(answer.thumbnails[0].data[:2]) == b'\xff\xd8'
    assert keyframe.base_to_camera.translation.x == 0.25
    assert len(call(GetKeyframes, 'get_keyframes').keyframes) == 3
    assert not call(GetKeyframes, 'get_keyframes',
                    ids=[KeyframeId(session_id=9, keyframe_id=1)]).success


def test_keyframes_are_forgotten_one_by_one_or_by_session(listener, eager, call):
    eager()
    send_places(listener, [1, 2, 3])
    call(StartSession, 'start_session')
    send_places(listener, [4, 5], first_s=20)
    one = KeyframeId(session_id=2, keyframe_id=1)
    assert call(RemoveKeyframes, 'remove_keyframes', ids=[one]).removed == 1
    whole = KeyframeId(session_id=1)
    assert call(RemoveKeyframes, 'remove_keyframes', ids=[whole]).removed == 3
    wait_until(lambda: listener.status.keyframes == 1, 'the status to follow')
    send_places(listener, [1], first_s=30)
    assert [m.match.keyframe_id for m in listener.candidates[-1].matches] == [2]


def test_on_a_full_disk_the_node_goes_on_and_says_so(listener, eager, tmp_path):
    with small_disk(tmp_path / 'disk', 6) as disk:
        node = eager(map__path=str(disk / 'map.vprmap'))
        send_places(listener, [1, 2])
        ballast = fill_disk(disk)
        send_places(listener, [3, 4, 5], first_s=20)  # 250 KB each
        wait_until(lambda: 'the disk is full: make room' in listener.status.map_error, 'an error')
        assert listener.counted('keyframes_unsaved') > 0
        assert listener.status.state == VprStatus.ACTIVE
        listener.wait_for_diagnostic('Map', 'the disk is full')
        send_places(listener, [5], first_s=30)
        assert listener.candidates[-1].matches[0].match.keyframe_id == 5

        ballast.unlink()  # the robot stands, and no image comes
        wait_until(lambda: listener.status.map_error == '', 'the file to be written')
        wait_until(lambda: listener.counted('keyframes_unsaved') == 0, 'all of them to be kept')
        wait_until_stored(disk / 'map.vprmap', [f'1:{n}' for n in range(1, 7)])
        send_places(listener, [6], first_s=40)
        wait_until_stored(disk / 'map.vprmap', [f'1:{n}' for n in range(1, 8)])
        clean_up(node)
