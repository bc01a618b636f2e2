"""`vpr evaluate`: four kinds of truth, what it leaves behind, and what it refuses."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict
from pathlib import Path

import cv2
import laps
import pytest

from selavpr_ros.cli.main import main
from selavpr_ros.evaluation.description import describe
from selavpr_ros.maps.keyframe import Keyframe, KeyframeId, NewKeyframe, Session, SessionId
from selavpr_ros.maps.keyframe_map import KeyframeMap
from selavpr_ros.models import load_model
from selavpr_ros.recordings.ground_truth import SamePlace

HOG = ['--weights', 'hog', '--input-size', '96', '128']
PICTURE = 'hits_and_misses_hog_63bf8e946667_area96x128.png'


def write_walk(folder: Path, places: list[int], lap: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.iterdir()))
    for number, place in enumerate(places, start=start):
        image = laps.picture(place, lap)[..., ::-1]
        assert cv2.imwrite(str(folder / f'{number}.png'), image)
    return folder


@pytest.fixture(scope='module')
def walks(tmp_path_factory) -> tuple[Path, Path]:
    """Two walks past six places; on the second one the last two are others."""
    root = tmp_path_factory.mktemp('walks')
    return (write_walk(root / 'left', [0, 1, 2, 3, 4, 5], 0),
            write_walk(root / 'right', [0, 1, 2, 3, 8, 9], 1))


@pytest.fixture(scope='module')
def two_laps(tmp_path_factory) -> Path:
    """The images of two laps past six places, their pairs and their poses."""
    root = tmp_path_factory.mktemp('two') / 'laps'
    for lap in range(2):
        write_walk(root / 'images', list(range(6)), lap)
    pairs = [f'{number + 6},{number}' for number in range(1, 7)]
    (root / 'loops.csv').write_text('\n'.join(['image_a,image_b', *pairs]))
    poses = [f'{number}.png,{10 * (number % 6)},0,{math.radians(number)}' for number in range(12)]
    (root / 'poses.csv').write_text('\n'.join(['image,x_m,y_m,yaw_rad', *poses]))
    return root


@pytest.fixture
def evaluate(tmp_path):
    """Run `vpr evaluate ... -o out`; returns the exit code and the folder."""
    def evaluate(*words: object) -> tuple[int, Path]:
        return main(['evaluate', *map(str, words), '-o', str(tmp_path / 'out')]), tmp_path / 'out'

    return evaluate


def metrics(folder: Path) -> dict:
    return json.loads((folder / 'metrics.json').read_text())


def test_frames(walks, evaluate, capsys):
    code, folder = evaluate('--frames', *walks, '--tolerance', 0, *HOG)
    assert code == 0
    output, progress = capsys.readouterr()
    assert output.startswith('right-left: 6 queries in 6 images; same place: within 0 frames\n')
    assert output.endswith(f'results: {folder}\n')
    assert 'describing' in progress
    assert sorted(file.name for file in folder.iterdir()) == [
        'answers.csv', PICTURE, 'metrics.json', 'precision_recall.png', 'report.html', 'table.md']
    (method,) = metrics(folder)['methods']
    assert method['recall']['re-ranked']['1'] == pytest.approx(4 / 6)
    run = metrics(folder)['run']
    assert run['settings']['frames'] == ['left', 'right']
    assert run['settings']['tolerance'] == 0
    assert 'selavpr_ros' in run['versions']
    page = (folder / 'report.html').read_text()
    assert '<h1>Evaluation of right-left</h1>' in page
    assert page.count('<h2>Worst false answers: hog/') == 1


def test_pairs(two_laps, evaluate, capsys):
    code, folder = evaluate('--pairs', two_laps / 'images', two_laps / 'loops.csv', '--exclude', 2,
                            *HOG)
    assert code == 0
    assert capsys.readouterr().out.startswith(
        'laps: 6 queries (6 without a positive left out) in 12 images; ')
    assert metrics(folder)['methods'][0]['recall']['re-ranked']['1'] == 1.0
    with (folder / 'answers.csv').open() as file:
        best = [row for row in csv.DictReader(file) if row['rank'] == '1']
    assert [(row['query'], row['image']) for row in best if row['order'] == 're-ranked'] == [
        (f'{number + 6}.png', f'{number}.png') for number in range(6)]


def test_positions_of_one_recording(two_laps, evaluate):
    code, folder = evaluate('--positions', two_laps, '--radius', 2, '--heading', 10,
                            '--exclude', 2, '--top-k', 9, *HOG)
    assert code == 0
    assert metrics(folder)['set']['same_place'] == asdict(
        SamePlace(2.0, pytest.approx(10.0), excluded=2))
    (method,) = metrics(folder)['methods']
    assert method['recall']['re-ranked'] == {'1': 1.0, '5': 1.0}


def test_positions_in_names_and_queries_without_any(tmp_path, evaluate, capsys):
    for folder, east in (('database', (0, 100)), ('queries', (5, 60))):
        write_walk(tmp_path / folder, [0, 1], 0)
        for number, metres in enumerate(east):
            file = tmp_path / folder / f'{number}.png'
            file.rename(file.with_name(f'@{metres}.0@4000.0@17@T@@.png'))
    words = '--positions', tmp_path / 'database', tmp_path / 'queries', *HOG
    code, folder = evaluate(*words, '--of-all')
    assert code == 0
    output = capsys.readouterr().out
    assert 'queries-database: 1 queries (1 without a positive counted as misses)' in output
    assert metrics(folder)['methods'][0]['recall']['global']['1'] == 0.5
    code, folder = evaluate(*words, '--overwrite')
    assert metrics(folder)['methods'][0]['recall']['global']['1'] == 1.0


def test_a_city_of_msls(tmp_path, evaluate):
    for side in ('query', 'database'):
        folder = write_walk(tmp_path / 'cph' / side / 'images', [0, 1], 0)
        for name in ('0', '1'):
            (folder / f'{name}.png').rename(folder / f'key{name}.jpg')
        for table, head, row in (('postprocessed', 'key,easting,northing', '{}00.0,50.0'),
                                 ('raw', 'key,pano', 'False')):
            rows = [f'key{n},{row.format(n)}' for n in (0, 1)]
            (folder.parent / f'{table}.csv').write_text('\n'.join([head, *rows]))
    code, folder = evaluate('--msls', tmp_path / 'cph', '--radius', 30, *HOG)
    assert code == 0
    assert metrics(folder)['set']['name'] == 'msls-cph'
    assert metrics(folder)['set']['same_place'] == asdict(SamePlace(30.0))
    assert metrics(folder)['methods'][0]['recall']['global']['1'] == 1.0


def test_global_descriptors_only(walks, evaluate):
    _, folder = evaluate('--frames', *walks, '--no-reranking', *HOG)
    assert list(metrics(folder)['methods'][0]['recall']) == ['global']


def test_baselines_on_the_same_queries(walks, evaluate):
    code, folder = evaluate('--frames', *walks, '--baselines', '--weights', '--no-reranking')
    assert code == 0
    names = [method['method'].split('/')[0] for method in metrics(folder)['methods']]
    assert names == ['thumbnail', 'orb1000', 'untrained0']
    assert len(list(folder.glob('hits_and_misses_*.png'))) == 3


def test_a_keyframe_takes_what_a_map_holds_of_it(walks, evaluate):
    _, folder = evaluate('--frames', *walks, *HOG)
    method, = metrics(folder)['methods']
    database = describe(load_model('hog', image_size=(96, 128)), sorted(walks[0].iterdir()))
    keyframe_map = KeyframeMap()
    for number, local in enumerate(database.local_features, start=1):
        keyframe = Keyframe(KeyframeId(1, number), number,
                            database.global_descriptors[number - 1].numpy(), None, 0.0)
        keyframe_map.add(NewKeyframe(keyframe, Session(SessionId(1)), local))
    assert method['bytes_per_keyframe']['re-ranked'] == pytest.approx(
        keyframe_map.nbytes / len(keyframe_map))


def test_the_folder_is_named_by_set_and_time(walks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['evaluate', '--frames', *map(str, walks), *HOG]) == 0
    (folder,) = (tmp_path / 'vpr_results').iterdir()
    assert folder.name.startswith('evaluate-right-left_2')


@pytest.mark.parametrize(('words', 'told'), [
    (['--frames', 'none', 'none2'], 'none is no folder'),
    (['--frames', 'a', 'b', '--radius', '3'], '--radius belongs to --positions and --msls, not'),
    (['--pairs', 'a', 'b', '--tolerance', '3'], '--tolerance belongs to --frames, not to --pairs'),
    (['--frames', 'a', 'b', '--exclude', '0'], '--exclude belongs to --pairs and --positions'),
    (['--positions', 'a', 'b', '--exclude', '1'], '--exclude is for one recording that is'),
    (['--msls', 'a', '--heading', '3'], '--heading belongs to --positions, not to --msls'),
    (['--msls', 'none'], 'none/database/raw.csv cannot be read'),
    (['--positions', 'a', 'b', 'c'], '--positions takes one or two folders, got 3'),
])
def test_what_cannot_be_asked_is_one_line(words, told, evaluate, capsys):
    code, folder = evaluate(*words)
    assert code == 1
    error = capsys.readouterr().err
    assert error.startswith(f'vpr evaluate: {told}')
    assert len(error.splitlines()) == 1
    assert not folder.exists()


def test_a_wrong_model_is_told_before_anything_is_made(walks, evaluate, capsys):
    code, folder = evaluate('--frames', *walks, '--weights', 'hog', 'none.pth')
    assert code == 1
    assert 'none.pth: no such file' in capsys.readouterr().err
    assert not folder.exists()


def test_nothing_to_measure(walks, evaluate, capsys):
    code, folder = evaluate('--frames', *walks, '--weights')
    assert code == 1
    assert 'nothing to measure: name --weights, or ask for --baselines' in capsys.readouterr().err
    assert not folder.exists()


def test_a_folder_that_holds_something_is_left_alone(walks, evaluate, tmp_path, capsys):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out/precious').touch()
    assert evaluate('--frames', *walks, *HOG)[0] == 1
    assert 'is not empty' in capsys.readouterr().err
    assert [file.name for file in (tmp_path / 'out').iterdir()] == ['precious']


@pytest.mark.parametrize('words', [
    [], ['--frames', 'a'], ['--frames', 'a', 'b', '--pairs', 'a', 'b'],
    ['--frames', 'a', 'b', '--tolerance', '-1'], ['--positions', 'a', '--radius', '0'],
    ['--frames', 'a', 'b', '--top-k', '0'],
])
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(['evaluate', *words])
    assert stop.value.code == 2
    assert 'usage: vpr evaluate' in capsys.readouterr().err
