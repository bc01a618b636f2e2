"""`vpr compare` on folders that `vpr evaluate` and `vpr replay` have really written."""

from __future__ import annotations

import csv
import subprocess
import sys

import cv2
import laps
import pytest
import yaml
from bags import write_image_bag

from selavpr_ros.cli.main import main


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """Two evaluations on one set, one on another, and two replays of one bag."""
    root = tmp_path_factory.mktemp('runs')
    for folder, lap in (('left', 0), ('right', 1)):
        (root / folder).mkdir()
        for place in range(4):
            cv2.imwrite(str(root / folder / f'{place}.png'), laps.picture(place, lap)[..., ::-1])
    for name, words in (('full', []), ('plain', ['--no-reranking']), ('near', ['--tolerance', 0])):
        assert main(['evaluate', '--frames', str(root / 'left'), str(root / 'right'), '--weights',
                     'hog', '--input-size', '96', '128', '-o', str(root / name),
                     *map(str, words)]) == 0
    bag = write_image_bag(root / 'two_laps.bag', laps.images(), truth=laps.true_poses())
    params = root / 'params.yaml'
    params.write_text(yaml.safe_dump({'vpr': {'ros__parameters': laps.SETTINGS}}))
    for name, top_k in (('many', 20), ('few', 3)):
        assert main(['replay', str(bag), '--params', str(params), '-o', str(root / name),
                     '--set', f'index.top_k={top_k}']) == 0
    return root


@pytest.fixture
def compare(runs, capsys):
    """Run `vpr compare` on folders by name; returns the code, what it printed, and the error."""
    def compare(*words):
        capsys.readouterr()
        named = [str(runs / word) if (runs / str(word)).exists() else str(word) for word in words]
        return main(['compare', *named]), *capsys.readouterr()

    return compare


def test_evaluations_side_by_side(compare):
    code, output, _ = compare('full', 'plain')
    assert code == 0
    results, differences = output.split('\n\n')
    lines = [line.split() for line in results.splitlines()]
    assert [line[:1] + line[2:4] for line in lines[1:]] == [
        ['full', 'global', '0.750'], ['full', 're-ranked', '1.000'], ['plain', 'global', '0.750']]
    assert all(float(line[-3]) > 0.0 for line in lines[1:])  # milliseconds
    assert [line[-1] for line in lines[1:]] == ['bytes', 'kB', 'bytes']
    assert [line.split() for line in differences.splitlines()] == [
        ['setting', 'full', 'plain'], ['settings.no_reranking', 'False', 'True']]


def test_replays_side_by_side(compare):
    code, output, _ = compare('many', 'few')
    assert code == 0
    line = output.splitlines()[1].split()
    assert line[3:6] == ['1.000', '1.000', '1.000']
    assert int(line[8]) > 5
    assert line[9] == '0'
    assert output.splitlines()[2].split()[5] == '-'  # recall@10 of three candidates
    assert 'index.top_k  20    3' in output


def test_different_questions_need_a_word(compare):
    code, output, error = compare('full', 'near')
    assert (code, output) == (1, '')
    assert error.startswith('vpr compare: ')
    assert "same_place is 'within 2 frames' and 'within 0 frames'" in error
    assert len(error.splitlines()) == 1
    assert compare('full', 'near', '--any-set')[0] == 0
    assert compare('full', 'many')[0] == 1
    assert 'hog/' in compare('full', 'many', '--any-set')[1]


def test_it_is_written_as_page_and_table(compare, tmp_path):
    assert compare('full', 'plain', '-o', tmp_path / 'a.html')[0] == 0
    page = (tmp_path / 'a.html').read_text()
    assert page.count('data:image/png') == 2
    assert '<td>settings.no_reranking</td><td>False</td><td>True</td>' in page
    assert 'same_place: within 2 frames' in page
    assert compare('full', 'plain', '-o', tmp_path / 'a.csv')[0] == 0
    with (tmp_path / 'a.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['recall@1'] for row in rows] == ['0.750', '1.000', '0.750']


@pytest.mark.parametrize(('words', 'told'), [
    (['full', '-o', 'a.txt'], 'a.txt ends in neither .html nor .csv'),
    (['full', '-o', '/no/such/a.csv'], '/no/such/a.csv cannot be written: No such file'),
    (['full', 'gone'], 'gone has no metrics.json'),
])
def test_mistakes_are_one_line(compare, words, told):
    code, output, error = compare(*words)
    assert (code, output) == (1, '')
    assert error.startswith(f'vpr compare: {told}')
    assert len(error.splitlines()) == 1


def test_it_does_without_torch_which_takes_seconds_to_import(runs):
    code = ('import sys; from selavpr_ros.cli.main import main; '
            f"main(['compare', {str(runs / 'full')!r}]); assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, '-c', code], check=True, capture_output=True)
