"""`vpr build-map`: bags into a map that lasts, one after the other, and what a kill leaves."""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from contextlib import closing, suppress
from pathlib import Path

import laps
import numpy as np
import pytest
import yaml
from bags import (
    COMPRESSED_TOPIC,
    IMAGE_TOPIC,
    compressed_message,
    cut_short,
    damage_middle,
    image_message,
    odometry_message,
    write_bag,
    write_image_bag,
)

from selavpr_ros.cli import build_map
from selavpr_ros.cli.main import main
from selavpr_ros.errors import MapError
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.fleet import milvus_store
from selavpr_ros.maps.fleet.milvus_connection import Address
from selavpr_ros.maps.fleet.milvus_store import open_existing
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.models import load_from_settings
from selavpr_ros.place_recognizer import PlaceRecognizer
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.settings import make_settings

LATER_NS = 1000 * laps.SECOND_NS
SETTINGS = laps.SETTINGS


def later(stamped: list, after_ns: int = LATER_NS) -> list:
    return [(ns + after_ns, item) for ns, item in stamped]


@pytest.fixture(scope='module')
def monday(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('bags') / 'monday.bag'
    return write_image_bag(path, laps.images(), odometry=laps.true_poses(),
                           truth=laps.true_poses())


@pytest.fixture(scope='module')
def tuesday(tmp_path_factory) -> Path:
    """Other places, without odometry."""
    path = tmp_path_factory.mktemp('bags') / 'tuesday.bag'
    return write_image_bag(path, later([(ns, laps.picture(50 + i))
                                        for i, (ns, _) in enumerate(laps.images()[:9])]))


@pytest.fixture
def params(tmp_path) -> Path:
    path = tmp_path / 'params.yaml'
    path.write_text(yaml.safe_dump({'vpr': {'ros__parameters': SETTINGS}}))
    return path


@pytest.fixture
def build(tmp_path, params):
    """Run `vpr build-map ... --params .. -o office.vprmap`; returns the exit code and the map."""
    def build(*words: object) -> tuple[int, Path]:
        path = tmp_path / 'office.vprmap'
        return main(['build-map', *map(str, words), '--params', str(params), '-o', str(path)]
                    ), path

    return build


def sessions(path: Path) -> list[tuple[str, str, str, int, int]]:
    """Id, label, frame, keyframes and how many of them have a pose, by session."""
    with MapFile(path, read_only=True) as file:
        return [(str(s.session.id), s.session.label, s.session.frame, s.keyframes, s.with_pose)
                for s in file.summaries()]


def test_a_bag_becomes_what_the_recogniser_makes_of_it(monday, build, capsys):
    code, path = build(monday)
    assert code == 0
    output, progress = capsys.readouterr()
    assert output.startswith('keyframes  24 new, 24 in the map\nsessions   1 new, 1 in the map\n'
                             f'map        {path}, ')
    assert 'seconds ' in output.splitlines()[-1]
    assert '24/24' in progress
    assert 'keyframes=24' in progress
    settings = make_settings(SETTINGS)
    in_memory = PlaceRecognizer(load_from_settings(settings.model), settings)
    poses = dict(laps.true_poses())
    for ns, image in laps.images():
        in_memory.recognize(image, ns, poses[ns])
    with MapFile(path, read_only=True) as file:
        for ours, wanted in zip(file.keyframes(), in_memory.keyframe_map, strict=True):
            assert (ours.id, ours.stamp_ns, ours.pose) == (
                wanted.id, wanted.stamp_ns, wanted.pose)
            assert np.array_equal(ours.global_descriptor, wanted.global_descriptor)
            assert ours.travelled_m == wanted.travelled_m
            assert np.array_equal(file.local_features(ours.id).data,
                                  in_memory.keyframe_map.local_features(ours.id).data)
            assert file.thumbnail(ours.id).startswith(b'\xff\xd8')


def test_bag_after_bag(monday, tuesday, build, capsys):
    _, path = build(monday)
    capsys.readouterr()
    assert build(tuesday, '--robot-id', 0)[0] == 0
    assert 'keyframes  9 new, 33 in the map\nsessions   1 new, 2 in' in capsys.readouterr().out
    assert sessions(path) == [('1', 'monday', 'odom', 24, 24), ('2', 'tuesday', 'odom', 9, 0)]
    assert main(['map-info', str(path), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['model_id'].startswith('hog/')
    assert facts['keyframes'] == 33
    assert [s['label'] for s in facts['sessions']] == ['monday', 'tuesday']
    assert facts['contents']['thumbnails']['count'] == 33


def test_bags_at_once_with_a_label(monday, tuesday, build, capsys):
    code, path = build(monday, tuesday, '--label', 'both', '--robot-id', 5)
    assert code == 0
    assert sessions(path) == [('5/1', 'both', 'odom', 24, 24), ('5/2', 'both', 'odom', 9, 0)]


def test_places_of_the_map_are_recognised(monday, build, tmp_path):
    """What looks the same as the map is no new keyframe of it."""
    _, path = build(monday)
    again = write_image_bag(tmp_path / 'again.bag', later(laps.images()[:12]))
    assert build(again, '--set', 'keyframe.max_overlap=0.3')[0] == 0
    assert sessions(path)[1][:3] == ('2', 'again', 'odom')
    assert 3 <= sessions(path)[1][3] <= 8  # until the robot is sure where it is, and no more


def test_the_frame_is_that_of_the_odometry(build, tmp_path):
    poses = [(ns, odometry_message(ns, pose)) for ns, pose in laps.true_poses()[:8]]
    for _, message in poses:
        message.header.frame_id = 'wheels'
    images = [(ns, image_message(ns, image)) for ns, image in laps.images()[:2]]
    code, path = build(write_bag(tmp_path / 'a.bag', {'/odom': poses, IMAGE_TOPIC: images}))
    assert code == 0
    assert sessions(path) == [('1', 'a', 'wheels', 2, 2)]


def test_codec_and_topics(build, monday, tmp_path):
    images = laps.images()[:3]
    bag = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: [(ns, image_message(ns, image)) for ns, image in images],
        COMPRESSED_TOPIC: [(ns, compressed_message(ns, image)) for ns, image in images[:2]],
        '/odom': [(ns, odometry_message(ns, pose)) for ns, pose in laps.true_poses()[:9]]})
    code, path = build(bag, '--topic', COMPRESSED_TOPIC, '--odom-topic', 'none',
                       '--set', 'map.local_codec=binary')
    assert code == 0
    assert sessions(path) == [('1', 'a', 'odom', 2, 0)]
    with MapFile(path) as file:
        assert file.codec == 'binary'
    build(monday, '--set', 'map.local_codec=int8')  # one that exists keeps its own
    with MapFile(path) as file:
        assert file.codec == 'binary'


def test_parameters_of_a_node_that_only_localizes(monday, build):
    """The map to build is the one that was named."""
    code, path = build(monday, '--set', 'map.mode=localization', '--set', 'map.read_only=true',
                       '--set', 'map.path=elsewhere.vprmap', '--set', 'robot_id=3')
    assert code == 0
    assert sessions(path) == [('3/1', 'monday', 'odom', 24, 24)]


# ---- refusals ----------------------------------------------------------------------------------


def refused(capsys, code: int) -> str:
    """The one line that it is."""
    output, error = capsys.readouterr()
    assert (code, output, error.count('\n')) == (1, '', 1)
    assert error.startswith('vpr build-map: ')
    return error


def test_a_bag_that_is_in_the_map_is_refused_before_the_work(
        monday, tuesday, build, tmp_path, capsys):
    _, path = build(monday)
    content = sessions(path)
    capsys.readouterr()
    part = write_image_bag(tmp_path / 'part.bag', [
        (ns - laps.SECOND_NS // 2 * (i < 5), image)
        for i, (ns, image) in enumerate(laps.images()[3:])])
    for bags in ([monday], [tuesday, monday], [part]):
        error = refused(capsys, build(*bags)[0])
        assert f'{path}: it holds keyframes of robot 0 with the stamps of {bags[-1]}' in error
        assert 'leave this bag out' in error
    assert sessions(path) == content
    assert build(monday, '--robot-id', 1)[0] == 0
    assert [s[0] for s in sessions(path)] == ['1', '1/1']


def test_an_older_bag_is_welcome(monday, tuesday, build):
    build(tuesday)
    code, path = build(monday)
    assert code == 0
    assert [s[1] for s in sessions(path)] == ['tuesday', 'monday']


def test_the_same_bag_twice_at_once_is_in_the_map_once(monday, build, capsys):
    code, path = build(monday, monday)
    assert code == 1
    output, error = capsys.readouterr()
    assert 'keyframes  24 new, 24 in the map' in output
    assert 'leave this bag out' in error.splitlines()[-1]
    assert len(sessions(path)) == 1


def test_another_model(monday, tuesday, build, capsys):
    build(monday)
    capsys.readouterr()
    code, path = build(tuesday, '--set', 'model.input_size=[64, 96]')
    error = refused(capsys, code)
    assert 'area96x128' in error
    assert 'area64x96' in error
    assert len(sessions(path)) == 1


@pytest.mark.parametrize(('words', 'told'), [
    (['none.bag'], 'none.bag does not exist'),
    (['BAG', '--topic', '/none'], 'has no image topic /none'),
    (['BAG', '--odom-topic', '/none'], 'has no topic with poses /none'),
    (['BAG', '--device', 'abacus'], "device 'abacus' cannot be used here"),
    (['BAG', '--set', 'index.top_k=0'], 'index.top_k = 0 is not in [1, 200]'),
    (['BAG', '--robot-id', '70000'], 'robot_id = 70000 is not in [0, 65535]'),
    (['BAG', 'none.bag'], 'none.bag does not exist'),
])
def test_mistakes_are_one_line_and_leave_no_map(monday, build, capsys, words, told):
    code, path = build(*(monday if word == 'BAG' else word for word in words))
    assert told in refused(capsys, code)
    assert not path.exists()


def test_a_map_that_cannot_be_written(monday, params, tmp_path, capsys):
    (tmp_path / 'text').write_text('no map at all, but precious' * 50)
    for name, told in (('text', 'a file of another program'), ('none/a', 'there is no folder')):
        code = main(['build-map', str(monday), '--params', str(params), '-o',
                     str(tmp_path / name)])
        assert told in refused(capsys, code)
    assert (tmp_path / 'text').read_text().startswith('no map at all')


@pytest.mark.parametrize('words', [
    [], ['a.bag'], ['-o', 'a'], ['a.bag', '-o', 'b', '--robot-id', 'x']])
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(['build-map', *words])
    assert stop.value.code == 2
    assert 'usage: vpr build-map' in capsys.readouterr().err


# ---- what ends it early keeps what was done ----------------------------------------------------


def test_a_map_that_is_full(monday, tuesday, build, capsys):
    code, path = build(monday, tuesday, '--set', 'map.max_keyframes=10')
    assert code == 1
    output, error = capsys.readouterr()
    assert 'keyframes  10 new, 10 in the map' in output
    assert error.splitlines()[-1] == (
        f'vpr build-map: {path}: it is full with 10 keyframes: build it anew with --set '
        'map.max_keyframes=20')
    path.unlink()
    code, path = build(monday, tuesday, '--set', 'map.max_keyframes=10', '--set',
                       'map.eviction=oldest_session')
    assert code == 0
    assert 'keyframes  19 new, 9 in the map\nsessions   2 new, 1 in' in capsys.readouterr().out
    assert sessions(path)[1] == ('2', 'tuesday', 'odom', 9, 0)


def test_ctrl_c(monday, tuesday, build, monkeypatch, capsys):
    whole = Bag.images

    def cut(self, topic):
        for number, stamped in enumerate(whole(self, topic)):
            if topic == IMAGE_TOPIC and number == 7:
                raise KeyboardInterrupt
            yield stamped

    monkeypatch.setattr(Bag, 'images', cut)
    code, path = build(monday, tuesday)
    assert code == 130
    output, error = capsys.readouterr()
    assert 'keyframes  7 new, 7 in the map' in output
    assert error.endswith('vpr build-map: interrupted\n')
    assert [file.name for file in path.parent.iterdir() if 'office' in file.name] == [path.name]
    assert sessions(path) == [('1', 'monday', 'odom', 7, 7)]


def test_damage_in_the_middle_of_a_bag(tmp_path, build, capsys):
    bag = write_image_bag(tmp_path / 'a.bag', laps.images())
    damage_middle(bag / 'a.bag.db3')
    code, path = build(bag)
    assert code == 1
    assert 'a.bag.db3 is damaged after ' in capsys.readouterr().err
    assert 0 < sessions(path)[0][3] < 24


def test_what_is_left_out_is_counted(tmp_path, build, capsys):
    sent = [(ns, image_message(ns, image)) for ns, image in laps.images()[:6]]
    sent[1][1].encoding = 'strange'
    sent[3] = (sent[3][0], b'\x00\x01\x00\x00')
    assert build(write_bag(tmp_path / 'a.bag', {IMAGE_TOPIC: sent}))[0] == 0
    output = capsys.readouterr().out
    assert 'keyframes  4 new' in output
    assert 'left out   1 bad image, 1 unreadable message' in output


def undecodable(path: Path) -> Path:
    sent = [(ns, image_message(ns, image)) for ns, image in later(laps.images()[:6])]
    for _, message in sent:
        message.encoding = 'strange'
    return write_bag(path, {IMAGE_TOPIC: sent})


def test_a_bag_of_which_nothing_is_used_leaves_no_map(tmp_path, build, capsys):
    code, path = build(undecodable(tmp_path / 'a.bag'))
    assert code == 1
    output, error = capsys.readouterr()
    assert 'map        none, as it is empty' in output
    assert 'a.bag: no image was used: 6 of the 6 images of /camera/image_raw came' in error
    assert [file.name for file in path.parent.iterdir() if 'office' in file.name] == []


def test_a_bag_of_which_nothing_is_used_keeps_no_other_one_out(monday, tmp_path, build, capsys):
    code, path = build(undecodable(tmp_path / 'a.bag'), monday)
    assert code == 1
    assert 'a.bag: no image was used' in capsys.readouterr().err
    assert [s[1:] for s in sessions(path)] == [('monday', 'odom', 24, 24)]
    content = sessions(path)
    assert build(undecodable(tmp_path / 'b.bag'))[0] == 1
    assert sessions(path) == content  # a map that was there before stays


def test_what_is_missing_in_a_bag_is_told(tmp_path, build, capsys):
    odometry = [(ns - laps.START_NS, pose) for ns, pose in laps.true_poses()]
    bag = write_image_bag(tmp_path / 'a.bag', laps.images(), odometry=odometry, storage='mcap')
    cut_short(bag / 'a.bag.mcap', 0.5)
    code, path = build(bag)
    assert code == 0
    assert 8 < sessions(path)[0][3] < 13
    output = capsys.readouterr().out
    assert 'ends too early' in output
    assert 'a.bag: no image has a pose of /odom: the images are from' in output


def test_a_disk_that_takes_no_more(monday, build, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        code, path = build(monday)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert f'vpr build-map: {path}: ' in capsys.readouterr().err.splitlines()[-1]
    assert 0 < sessions(path)[0][3] < 24


def test_kill_9(tmp_path, build, params, tuesday):
    """What was seen in the map before the kill is there afterwards, whole, and can be added to."""
    bag = write_image_bag(tmp_path / 'long.bag', [
        (laps.START_NS + i * laps.SECOND_NS, laps.picture(i)) for i in range(250)])
    path = tmp_path / 'office.vprmap'
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['selavpr_ros.place_recognizer', 'selavpr_ros.cli.build_map'])
    process = context.Process(target=main, args=(
        ['build-map', str(bag), '--params', str(params), '-o', str(path)],))
    process.start()
    seen, deadline = 0, time.monotonic() + 60
    while seen < 12 and time.monotonic() < deadline:
        time.sleep(0.02)
        with suppress(MapError), MapFile(path, read_only=True) as file:  # not there at first
            seen = len(file)
    process.kill()
    process.join()
    assert process.exitcode == -9
    with MapFile(path, read_only=True) as file:
        kept = list(file.keyframes())
        assert 12 <= seen <= len(kept) < 250
        assert [k.id.keyframe_id for k in kept] == list(range(1, len(kept) + 1))
        assert all(file.local_features(k.id) is not None for k in kept)
        assert all(file.thumbnail(k.id) for k in kept)
    assert build(tuesday)[0] == 0
    assert [s[1:4] for s in sessions(path)] == [
        ('long', 'odom', len(kept)), ('tuesday', 'odom', 9)]
    with MapFile(path) as file:
        assert len(KeyframeMap(file)) == len(kept) + 9


# ---- a map that robots share -------------------------------------------------------------------


@pytest.fixture
def share(tmp_path, params):
    """Run `vpr build-map ... -o milvus://fleet.db` for robot 3; returns the exit code."""
    def share(*words: object) -> int:
        return main(['build-map', *map(str, words), '--params', str(params), '--robot-id', '3',
                     '-o', f'milvus://{tmp_path}/fleet.db',
                     '--set', f'map.own_path={tmp_path}/own.vprmap'])

    return share


def shared(folder: Path) -> list[tuple[str, int, int]]:
    with closing(open_existing(Address.parse(f'milvus://{folder}/fleet.db'))) as store:
        return [(s.session.label, s.session.id.robot_id, s.keyframes) for s in store.summaries()]


def test_bags_go_to_a_shared_map(monday, tuesday, share, tmp_path, capsys):
    assert share(monday) == 0
    own = tmp_path / 'own.vprmap'
    output = capsys.readouterr().out
    assert 'keyframes  24 new, 24 in the map\n' in output
    assert f"map        map 'selavpr' on {tmp_path}/fleet.db, by way of {own}, " in output
    assert shared(tmp_path) == [('monday', 3, 24)]
    assert share(tuesday) == 0
    assert shared(tmp_path) == [('monday', 3, 24), ('tuesday', 3, 9)]
    assert sessions(own)[0] == ('3/1', 'monday', 'odom', 24, 24)
    assert share(monday) == 1
    assert 'it holds keyframes of robot 3 with the stamps of' in capsys.readouterr().err


def test_what_a_shared_map_refuses_is_told_and_kept(
    monday, tuesday, share, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(build_map, 'PATIENCE_S', 0.0)
    monkeypatch.setattr(milvus_store, 'MAX_LOCAL_BYTES', 10)
    assert share(monday) == 1
    output, error = capsys.readouterr()
    assert 'keyframes  24 new, 24 in the map\n' in output
    assert ' keyframes wait to be delivered, which the next node or vpr build-map' in error
    monkeypatch.undo()
    assert sessions(tmp_path / 'own.vprmap')[0][3] == 24
    assert share(tuesday) == 0
    assert [count for _, _, count in shared(tmp_path)] == [24, 9]


def test_a_shared_map_wants_to_know_the_robot(monday, params, tmp_path, capsys):
    assert main(['build-map', str(monday), '--params', str(params),
                 '-o', f'milvus://{tmp_path}/fleet.db']) == 1
    assert 'set robot_id to a number from 1 on' in capsys.readouterr().err
