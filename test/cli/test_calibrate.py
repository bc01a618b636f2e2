from __future__ import annotations

import sys
from pathlib import Path

import cv2
import laps
import numpy as np
import pytest
from bags import write_image_bag

from selavpr_ros.calibration import Calibration
from selavpr_ros.cli.main import main


@pytest.fixture
def calibrate(tmp_path, params):
    """Run `vpr calibrate ... -o site.json`; returns the exit code and the file."""

    def calibrate(*options: str | Path) -> tuple[int, Path]:
        target = tmp_path / 'site.json'
        code = main(['calibrate', *map(str, options), '--params', str(params), '-o', str(target)])
        return code, target

    return calibrate


def test_recordings_become_a_calibration(bag, calibrate, capsys):
    code, target = calibrate(bag, bag, bag)
    assert code == 0
    found = Calibration.load(target)
    assert found.model_id.startswith('hog/')
    assert found.codec == 'float16'
    assert found.reliability['true'] == 36
    assert found.reliability['expected_calibration_error'] < 0.05  # two worlds apart
    picture = cv2.imread(str(target.with_suffix('.png')))
    assert picture is not None
    out = capsys.readouterr().out
    assert 'made from    two_laps (' in out
    assert f'calibration: {target}' in out


def test_and_the_replay_has_probabilities_then(bag, params, calibrate, tmp_path):
    _, target = calibrate(bag, bag, bag)
    out = tmp_path / 'out'
    assert main(['replay', str(bag), '--params', str(params), '-o', str(out),
                 '--set', f'gates.calibration={target}',
                 '--set', 'gates.min_probability=0.5']) == 0
    assert 'REJECT_LOW_PROBABILITY' not in (out / 'queries.csv').read_text()
    assert 'ACCEPTED' in (out / 'candidates.csv').read_text()


def test_image_folders(tmp_path, calibrate):
    for lap in (0, 1):
        folder = tmp_path / f'lap{lap}'
        folder.mkdir()
        for place in range(30):
            picture = np.ascontiguousarray(laps.picture(place, lap)[:, :, ::-1])
            cv2.imwrite(str(folder / f'{place:03}.png'), picture)
    code, target = calibrate('--frames', tmp_path / 'lap0', tmp_path / 'lap1')
    assert code == 0
    assert Calibration.load(target).provenance.startswith('lap1-lap0 (')


def test_a_calibration_is_not_replaced_by_chance(bag, calibrate, tmp_path, capsys):
    (tmp_path / 'site.json').write_text('mine')
    code, target = calibrate(bag)
    assert code == 1
    assert 'site.json exists: choose another name with -o' in capsys.readouterr().err
    assert target.read_text() == 'mine'


def test_too_little_is_told(bag, calibrate, capsys):
    code, target = calibrate(bag)
    assert code == 1
    assert 'at least 20 of both are needed' in capsys.readouterr().err
    assert not target.exists()


def test_a_bag_without_truth_and_nothing_at_all(tmp_path, calibrate, capsys):
    bare = write_image_bag(tmp_path / 'bare.bag', laps.images()[:3])
    assert calibrate(bare)[0] == 1
    assert 'has no true poses: name their topic by --ground-truth' in capsys.readouterr().err
    assert calibrate()[0] == 1
    assert 'nothing to learn from' in capsys.readouterr().err


def test_without_scikit_learn_it_says_what_to_install(bag, calibrate, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    assert calibrate(bag)[0] == 1
    assert 'pip install scikit-learn' in capsys.readouterr().err
