from __future__ import annotations

import argparse
import csv
import json
import logging
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import laps
import pytest
import tiny_checkpoints
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

import selavpr_ros.cli.replay
from selavpr_ros.cli.main import main
from selavpr_ros.maps.opening import open_map
from selavpr_ros.models import load_model
from selavpr_ros.recordings.bag import Bag
from selavpr_ros.recordings.ground_truth import PoseTruth, SamePlace
from selavpr_ros.settings import make_settings

FILES = [
    'candidates.csv', 'keyframes.csv', 'log.txt', 'metrics.json', 'precision_recall.png',
    'queries.csv', 'report.html', 'settings.yaml', 'similarity_matrix.png', 'trajectories.png',
    'trajectory.png']


@pytest.fixture
def replay(tmp_path, params):
    """Run `vpr replay BAG --params .. -o out`; returns the exit code and the folder."""

    def replay(bag: Path, *options: str, folder: str = 'out') -> tuple[int, Path]:
        out = tmp_path / folder
        code = main(['replay', str(bag), '--params', str(params), '-o', str(out), *options])
        return code, out

    return replay


def _metrics(folder: Path) -> dict:
    return json.loads((folder / 'metrics.json').read_text())


def test_the_whole_run(bag, replay, capsys):
    code, folder = replay(bag)
    assert code == 0
    assert sorted(path.name for path in folder.iterdir()) == FILES
    out, progress = capsys.readouterr()
    assert 'loop closures' in out
    assert out.endswith(f'results: {folder}\n')
    assert 'trajectory error' in (folder / 'report.html').read_text()
    assert '24/24' in progress
    metrics = _metrics(folder)
    assert metrics['queries'] == metrics['queries_with_pose'] == metrics['keyframes'] == 24
    assert metrics['truth']['precision'] == metrics['truth']['recall']['1'] == 1.0
    assert metrics['truth']['revisits'] == 12
    run = metrics['run']
    assert (run['bag'], run['topic'], run['odometry'], run['ground_truth']) == (
        'two_laps.bag', IMAGE_TOPIC, '/odom', '/ground_truth/odom')
    assert run['model_id'].startswith('hog/')
    assert run['reranked'] is True


def test_a_system_without_local_features_says_so(bag, replay, tmp_path, capsys):
    weights = tiny_checkpoints.write(tmp_path / 'salad.ckpt', tiny_checkpoints.make('salad'))
    sized = ('--weights', str(weights), '--set', 'model.input_size=[112, 154]')
    code, folder = replay(bag, *sized)
    assert code == 0
    out = capsys.readouterr().out
    assert 're-ranking         none: salad has no local features' in out
    assert _metrics(folder)['run']['reranked'] is False
    with (folder / 'candidates.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert {(row['local_matches'], row['local_score'], row['overlap']) for row in rows} == {
        ('', '', '')}
    assert all(0 <= float(row['probability']) <= 1 for row in rows)


def test_the_folder_explains_itself(bag, replay):
    _, folder = replay(bag, '--set', 'index.top_k=7', '--set', 'query.max_rate=1.5')
    settings = yaml.safe_load((folder / 'settings.yaml').read_text())['/**']['ros__parameters']
    assert settings['index.top_k'] == 7
    assert settings['query.max_rate'] == 1.5
    assert settings['model.input_size'] == [96, 128]
    log = (folder / 'log.txt').read_text()
    assert "replay of {'bag': 'two_laps.bag'" in log
    assert log.count(': loop closure with keyframe 1:') == _metrics(folder)['closures'] > 0
    assert 'ended by the end of the bag' in log
    assert logging.getLogger('selavpr_ros').handlers == []


def test_twice_gives_the_same(bag, replay):
    _, first = replay(bag, folder='first')
    _, second = replay(bag, folder='second')
    for name in ('candidates.csv', 'keyframes.csv'):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_its_settings_file_repeats_a_run(bag, replay, tmp_path):
    _, first = replay(bag, folder='first')
    code = main(['replay', str(bag), '--params', str(first / 'settings.yaml'),
                 '-o', str(tmp_path / 'again')])
    assert code == 0
    assert ((tmp_path / 'again' / 'candidates.csv').read_bytes()
            == (first / 'candidates.csv').read_bytes())


def test_without_a_name_the_folder_is_called_after_the_bag(bag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['replay', str(bag), '--weights', 'hog', '--set', 'model.input_size=[96, 128]',
                 '--set', 'query.max_rate=0.2']) == 0
    (folder,) = (tmp_path / 'vpr_results').iterdir()
    assert folder.name.startswith('two_laps_2')


def test_a_folder_with_files_is_refused_before_the_work(bag, replay, capsys):
    _, folder = replay(bag)
    capsys.readouterr()
    assert replay(bag)[0] == 1
    error = capsys.readouterr().err
    assert 'out is not empty: choose another folder, or pass --overwrite' in error
    assert replay(bag, '--overwrite')[0] == 0


def test_without_poses(bag, replay):
    code, folder = replay(bag, '--odom-topic', 'none', '--ground-truth', 'none')
    assert code == 0
    metrics = _metrics(folder)
    assert (metrics['queries_with_pose'], metrics['truth']) == (0, None)
    assert metrics['run']['odometry'] is None
    assert _metrics(replay(bag, '--set', 'pose_source=none', folder='b')[1])[
        'queries_with_pose'] == 0


def test_truth_from_a_tum_file(bag, replay, tmp_path):
    tum = tmp_path / 'truth.tum'
    tum.write_text('\n'.join(
        f'{ns // 10**9}.{ns % 10**9:09d} ' + ' '.join(map(str, [*p.translation_m, *p.rotation]))
        for ns, p in laps.true_poses()))
    _, folder = replay(bag, '--ground-truth', str(tum), '--positive-radius', '25',
                       '--positive-heading', '31')
    metrics = _metrics(folder)
    assert metrics['run']['ground_truth'] == 'truth.tum'
    assert str(SamePlace(**metrics['truth']['same_place'])) == 'within 25 m and 31 deg'
    assert metrics['truth']['precision'] == 1.0
    assert metrics['truth']['revisits'] > 12


def test_bad_images_are_reported_and_do_not_end_the_run(tmp_path, replay, capsys):
    sent = [(ns, image_message(ns, image)) for ns, image in laps.images()[:6]]
    sent[1][1].encoding = 'strange'
    sent[2][1].step = 1
    sent[3] = (sent[3][0], b'\x00\x01\x00\x00')
    code, folder = replay(write_bag(tmp_path / 'a.bag', {IMAGE_TOPIC: sent}))
    assert code == 0
    assert _metrics(folder)['skipped'] == {'bad image': 2, 'unreadable message': 1}
    told = ' '.join(capsys.readouterr().out.split())
    assert 'images 5 (2 bad image, 1 unreadable message)' in told
    log = (folder / 'log.txt').read_text()
    assert "unknown encoding 'strange'" in log
    assert 'step is 1 bytes' in log


# ---- nothing was used, nothing was judged ------------------------------------------------------


def test_images_of_which_none_can_be_decoded(tmp_path, replay, capsys):
    sent = [(ns, image_message(ns, image)) for ns, image in laps.images()[:6]]
    for _, message in sent:
        message.encoding = 'strange'
    code, folder = replay(write_bag(tmp_path / 'a.bag', {IMAGE_TOPIC: sent}))
    assert code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'a.bag: no image was used: 6 of the 6 images of /camera/image_raw came' in error
    assert "6 bad image; the first one: unknown encoding 'strange'" in error
    assert 'no image was used' in (folder / 'log.txt').read_text()


def test_images_that_are_listed_and_do_not_come(tmp_path, replay, capsys):
    path = write_image_bag(tmp_path / 'a.bag', laps.images())
    with closing(sqlite3.connect(path / 'a.bag.db3')) as database, database:
        database.execute('DELETE FROM messages')
    assert replay(path)[0] == 1
    assert ('no image was used: 0 of the 24 images of /camera/image_raw came: 24 missing message'
            in capsys.readouterr().err)


def test_a_bag_that_ends_too_early_is_used_and_told(tmp_path, replay, capsys):
    path = write_image_bag(tmp_path / 'a.bag', laps.images(), storage='mcap')
    cut_short(path / 'a.bag.mcap', 0.5)
    code, folder = replay(path)
    assert code == 0
    output = capsys.readouterr().out
    assert '`mcap recover a.bag.mcap -o whole.mcap`' in output
    assert any('ends too early' in note for note in _metrics(folder)['notes'])
    assert 8 < _metrics(folder)['queries'] < 13


def _write_tum(path: Path, poses: list, factor: int = 1, after_s: int = 0) -> Path:
    """A truth file whose stamps are in another unit, or of another clock."""
    path.write_text('\n'.join(
        f'{(ns / 1e9 + after_s) * factor:.9f} ' + ' '.join(
            map(str, [*pose.translation_m, *pose.rotation])) for ns, pose in poses))
    return path


@pytest.mark.parametrize(('clock', 'words'), [
    ({'factor': 10**9}, 'in nanoseconds'), ({'factor': 1000}, 'in milliseconds'),
    ({'after_s': -1_700_000_000}, 'count from a start'), ({'after_s': 7200}, 'local time'),
    ({'after_s': 86_400}, 'of two recordings'),
])
def test_truth_on_another_clock(bag, replay, tmp_path, capsys, clock, words):
    tum = _write_tum(tmp_path / 'truth.tum', laps.true_poses(), **clock)
    code, folder = replay(bag, '--ground-truth', str(tum))
    assert code == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'nothing was judged: no image has a pose of truth.tum: the images are from' in error
    assert '1700000000.000 to 1700000023.000 s' in error
    assert words in error
    assert _metrics(folder)['queries'] == 24  # what was found without the truth is kept


def test_truth_without_poses(bag, replay, tmp_path, capsys):
    (tmp_path / 'truth.tum').write_text('# nothing\n')
    code, folder = replay(bag, '--ground-truth', str(tmp_path / 'truth.tum'))
    assert code == 1
    assert 'truth.tum holds no pose' in capsys.readouterr().err
    assert not folder.exists()


def test_odometry_on_another_clock(tmp_path, replay, capsys):
    late = [(ns - laps.START_NS, pose) for ns, pose in laps.true_poses()]
    code, folder = replay(write_image_bag(tmp_path / 'a.bag', laps.images(), odometry=late))
    assert code == 0
    output = capsys.readouterr().out
    assert 'queries          24, none with a pose' in output
    assert 'a.bag: no image has a pose of /odom: the images are from 1700000000.000' in output
    assert 'the poses count from a start, not from 1970' in output
    assert 'no image has a pose of /odom' in (folder / 'log.txt').read_text()


def test_a_driver_that_sets_no_stamps(tmp_path, replay, capsys):
    sent = [(ns, image_message(0, image)) for ns, image in laps.images()]
    poses = [(ns, odometry_message(ns, pose)) for ns, pose in laps.true_poses()]
    code, folder = replay(write_bag(tmp_path / 'a.bag', {IMAGE_TOPIC: sent, '/odom': poses}))
    assert code == 0
    assert 'the driver sets no stamps; the times of recording' in capsys.readouterr().out
    assert _metrics(folder)['queries_with_pose'] == 24


def test_a_bag_whose_image_topic_is_empty(tmp_path, replay, capsys):
    pose = laps.true_poses()[0]
    path = write_bag(tmp_path / 'a.bag', {'/odom': [(pose[0], odometry_message(*pose))]})
    assert replay(path)[0] == 1
    assert 'a.bag holds no images; its topics are: /odom' in capsys.readouterr().err


def test_several_image_topics(tmp_path, replay, capsys):
    ns, image = laps.images()[0]
    path = write_bag(tmp_path / 'a.bag', {
        IMAGE_TOPIC: [(ns, image_message(ns, image))],
        COMPRESSED_TOPIC: [(ns, compressed_message(ns, image))]})
    assert replay(path)[0] == 1
    assert '2 image topics, choose one with --topic: ' in capsys.readouterr().err
    assert replay(path, '--topic', '/no')[0] == 1
    error = capsys.readouterr().err
    assert 'has no image topic /no; it has: /camera/image_raw (sensor_msgs' in error
    assert error.count('\n') == 1
    assert replay(path, '--topic', COMPRESSED_TOPIC)[0] == 0


@pytest.mark.parametrize(('options', 'words'), [
    (['--weights', 'gone.pth'], 'gone.pth'),
    (['--device', 'abacus'], "device 'abacus' cannot be used here"),
    (['--set', 'index.top_k=0'], 'index.top_k = 0 is not in [1, 200]'),
    (['--set', 'top_k=3'], "no setting 'top_k'"),
    (['--set', 'nothing'], 'not of the form name=value'),
    (['--params', 'gone.yaml'], 'gone.yaml cannot be read as parameters'),
    (['--ground-truth', 'gone.tum'], 'no topic with poses gone.tum'),
    (['--odom-topic', '/gone'], 'no topic with poses /gone'),
])
def test_mistakes_are_one_line_and_leave_nothing(bag, replay, tmp_path, capsys, options, words):
    code, folder = replay(bag, *options)
    error = capsys.readouterr().err
    assert (code, error.count('\n')) == (1, 1)
    assert error.startswith('vpr replay: ')
    assert words in error
    assert not folder.exists()


def test_the_limits_of_a_place_are_those_of_the_library():
    parser = argparse.ArgumentParser()
    selavpr_ros.cli.replay.add_arguments(parser)
    args = parser.parse_args(['a.bag'])
    truth = PoseTruth([])
    assert args.positive_radius == truth.radius_m
    assert args.positive_heading == pytest.approx(math.degrees(truth.heading_rad))


def _cut_short(monkeypatch, images: int, error: BaseException) -> None:
    whole = Bag.images

    def cut(self, topic):
        for number, stamped in enumerate(whole(self, topic)):
            if number == images:
                raise error
            yield stamped

    monkeypatch.setattr(Bag, 'images', cut)


def _evidence(path: Path) -> list[list[str]]:
    with path.open(newline='') as file:
        return [[row[name] for name in ('query_ns', 'match_keyframe', 'similarity', 'overlap',
                                        'likelihood_ratio')] for row in csv.DictReader(file)]


def test_ctrl_c_keeps_what_was_done(bag, replay, monkeypatch, capsys):
    _, whole = replay(bag, folder='whole')
    _cut_short(monkeypatch, 17, KeyboardInterrupt())
    code, folder = replay(bag)
    assert code == 130
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert (_metrics(folder)['images'], _metrics(folder)['queries']) == (17, 17)
    # What came later made some of the queries sure, and changed nothing that was measured.
    cut, uncut = (_evidence(each / 'candidates.csv') for each in (folder, whole))
    assert cut == uncut[:len(cut)]
    assert len(cut) > 50
    captured = capsys.readouterr()
    assert f'results: {folder}' in captured.out
    assert captured.err.endswith('vpr replay: interrupted\n')


def test_a_bag_that_is_damaged_in_the_middle_keeps_what_was_done(tmp_path, replay, capsys):
    path = write_image_bag(tmp_path / 'a.bag', laps.images())
    damage_middle(path / 'a.bag.db3')
    code, folder = replay(path)
    assert code == 1
    assert 'a.bag.db3 is damaged after ' in capsys.readouterr().err
    with (folder / 'queries.csv').open(newline='') as rows:
        assert 0 < len(list(csv.DictReader(rows))) < 24


# ---- a map to look in ---------------------------------------------------------------------------


@pytest.fixture
def known(bag, params, tmp_path):
    """A map of the bag's two laps."""
    path = tmp_path / 'known.vprmap'
    assert main(['build-map', str(bag), '-o', str(path), '--params', str(params)]) == 0
    return path


@pytest.fixture
def next_day(tmp_path):
    """The first lap again, a day later."""
    day_ns = 86_400 * laps.SECOND_NS
    first = laps.START_NS + laps.LAP_NS
    return write_image_bag(
        tmp_path / 'next_day.bag',
        [(ns + day_ns, image) for ns, image in laps.images() if ns < first],
        odometry=[(ns + day_ns, pose) for ns, pose in laps.true_poses() if ns < first],
        truth=[(ns + day_ns, pose) for ns, pose in laps.true_poses() if ns < first])


@pytest.mark.parametrize('how', ['map.mode=localization', 'map.read_only=true'])
def test_a_run_that_keeps_nothing_looks_in_the_map_of_the_settings(
        next_day, known, replay, capsys, how):
    before = known.read_bytes()
    code, folder = replay(next_day, '--set', f'map.path={known}', '--set', how)
    assert code == 0
    metrics = _metrics(folder)
    assert metrics['closures'] > 6
    assert metrics['keyframes'] == 0
    assert metrics['run']['map'] == 'known.vprmap'
    assert metrics['truth']['revisits'] is None  # the true poses of that day are not in this bag
    assert f'{known} with 24 keyframes, which stays as it is' in capsys.readouterr().out
    assert known.read_bytes() == before


def test_a_map_that_would_be_added_to_is_not_touched_and_told(next_day, known, replay, capsys):
    before = known.read_bytes()
    code, folder = replay(next_day, '--set', f'map.path={known}')
    assert code == 0
    assert _metrics(folder)['run']['map'] is None
    assert f'an empty one, not {known}: vpr replay writes to no map' in capsys.readouterr().out
    assert known.read_bytes() == before


@pytest.mark.parametrize(('path', 'reason'), [
    ('', 'there has to be a map to look in: set map.path, or map.mode mapping'),
    ('gone.vprmap', 'gone.vprmap: there is no such map'),
    ('milvus://me:secret@fleet:19530', 'looks only in map files: make one with vpr merge-maps'),
])
def test_without_a_map_to_look_in_there_is_no_run(bag, replay, capsys, path, reason):
    code, folder = replay(
        bag, '--set', f'map.path={path}', '--set', 'map.mode=localization')
    assert code == 1
    error = capsys.readouterr().err
    assert reason in error
    assert 'secret' not in error
    assert not folder.exists()


def test_a_map_without_keyframes_is_no_map_to_look_in(bag, replay, tmp_path, capsys):
    model = load_model('hog', image_size=(96, 128))
    path = tmp_path / 'empty.vprmap'
    open_map(make_settings({'map.path': str(path)}), model.model_id).close()
    code, _ = replay(bag, '--set', f'map.path={path}', '--set', 'map.mode=localization')
    assert code == 1
    assert 'empty.vprmap: it has no keyframe' in capsys.readouterr().err


# ---- parameter files ----------------------------------------------------------------------------


def test_two_robots_in_one_file_need_a_name(bag, tmp_path, capsys):
    path = tmp_path / 'robots.yaml'
    path.write_text(yaml.safe_dump({
        '/**': {'ros__parameters': laps.SETTINGS},
        '/r1/vpr': {'ros__parameters': {'robot_id': 1}},
        '/r2/vpr': {'ros__parameters': {'robot_id': 2}}}))
    run = ['replay', str(bag), '--params', str(path), '-o', str(tmp_path / 'out')]
    assert main(run) == 1
    assert '/r1/vpr and /r2/vpr: pass --node' in capsys.readouterr().err
    assert main([*run, '--node', '/r2/vpr']) == 0
    settings = yaml.safe_load((tmp_path / 'out/settings.yaml').read_text())
    assert settings['/**']['ros__parameters']['robot_id'] == 2


def test_a_node_without_a_file_is_refused(bag, capsys):
    assert main(['replay', str(bag), '--node', '/r1/vpr']) == 1
    assert 'give the file as --params' in capsys.readouterr().err
