"""Probabilities from evidence, and the file that they come from."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from selavpr_ros.calibration import (
    Calibration,
    LogisticModel,
    beside,
    evidence_of,
    find_calibration,
)
from selavpr_ros.errors import SettingError
from selavpr_ros.evidence import Match
from selavpr_ros.keyframe import Keyframe, KeyframeId
from selavpr_ros.models import load_model

KEYFRAME = Keyframe(KeyframeId(1, 1), 0, np.ones(1, np.float32), None, 0.0)
RICH = LogisticModel({'similarity': 2.0, 'local_score': 4.0}, -3.0)
POOR = LogisticModel({'similarity': 2.0}, -1.0)


def _calibration(model_id: str = 'hog/1/2', codec: str = 'float16') -> Calibration:
    return Calibration(model_id, codec, [RICH, POOR], 0.2, 'two towns', {'counts': [1, 2]})


def _match(similarity: float = 0.5, local_score: float = 0.6) -> Match:
    return Match(KEYFRAME, 0, similarity, 600, local_score)


def test_a_logistic_model_by_hand():
    assert RICH.probability({'similarity': 0.5, 'local_score': 0.5}) == 0.5
    assert RICH.probability({'similarity': 0.5, 'local_score': 0.5 + math.log(3) / 4}) == (
        pytest.approx(0.75))
    assert math.isnan(RICH.probability({'similarity': 0.5, 'local_score': math.nan}))
    steep = LogisticModel({'similarity': 1e6}, 0.0)
    assert steep.probability({'similarity': 1.0}) == 1.0
    assert steep.probability({'similarity': -1.0}) == pytest.approx(0.0)


@pytest.mark.parametrize(('coefficients', 'intercept'), [
    ({}, 0.0), ({'similarity': -0.1}, 0.0), ({'likelihood': 1.0}, 0.0),
    ({'similarity': math.inf}, 0.0), ({'similarity': 1.0}, math.nan)])
def test_a_model_that_says_nothing_or_the_opposite_is_refused(coefficients, intercept):
    with pytest.raises(SettingError, match='it needs finite, not negative coefficients'):
        LogisticModel(coefficients, intercept)


def test_the_richest_model_whose_evidence_is_known_counts():
    rich = _calibration().judge(_match())
    assert rich.probability == RICH.probability(evidence_of(_match()))
    assert rich.surplus == pytest.approx(0.5)
    poor = _calibration().judge(_match(local_score=math.nan))
    assert poor.probability == pytest.approx(0.5)
    assert math.isnan(poor.surplus)


def test_the_file_comes_back_as_it_was(tmp_path):
    path = tmp_path / 'a.json'
    _calibration().save(path)
    assert Calibration.load(path) == _calibration()
    unknown = Calibration('salad/1/2', 'none', [POOR], math.nan, 'one town')
    unknown.save(path)
    assert json.loads(path.read_text())['unrelated_score'] is None
    assert math.isnan(Calibration.load(path).unrelated_score)


@pytest.mark.parametrize(('content', 'words'), [
    ('', 'cannot be read as a calibration'), ('[1]', 'is no calibration of format 1'),
    ('{"format": 2}', 'is no calibration of format 1'), ('{"format": 1}', 'KeyError'),
    ('{"format": 1, "models": 3}', 'TypeError'),
    ('{"format": 1, "models": [{"coefficients": {"similarity": -1}, "intercept": 0}]}',
     'not negative'),
])
def test_a_damaged_file_is_a_sentence(tmp_path, content, words):
    path = tmp_path / 'a.json'
    path.write_text(content)
    with pytest.raises(SettingError, match=words):
        Calibration.load(path)
    with pytest.raises(SettingError, match='cannot be read'):
        Calibration.load(tmp_path / 'none.json')


def test_whom_it_is_for():
    calibration = _calibration()
    assert calibration.why_not('hog/1/2', 'float16') == ''
    assert calibration.why_not('hog/1/2', 'int8') == ''
    assert 'in float16, not in binary' in calibration.why_not('hog/1/2', 'binary')
    assert 'not for hog/1/3' in calibration.why_not('hog/1/3', 'float16')


def test_where_it_is_looked_for(tmp_path):
    weights = tmp_path / 'mine.pth'
    weights.touch()
    assert beside(str(weights), 'mine') == tmp_path / 'mine.pth.calibration.json'
    assert beside('embedded', 'embedded').parent.name == 'weights'


def test_which_one_is_in_force(tmp_path):
    model = load_model('hog', image_size=(120, 160))
    weights = tmp_path / 'mine.pth'
    weights.touch()
    none, why = find_calibration('', str(weights), model, 'float16')
    assert none is None
    assert why == 'there is no mine.pth.calibration.json: make it by `vpr calibrate`'
    why = find_calibration('none', str(weights), model, 'float16')[1]
    assert why == 'gates.calibration is none'

    found = beside(str(weights), 'mine')
    _calibration(model.model_id).save(found)
    assert find_calibration('', str(weights), model, 'float16') == (Calibration.load(found), '')
    assert 'not in binary' in find_calibration('', str(weights), model, 'binary')[1]

    other = tmp_path / 'site.json'
    shutil.copy(found, other)
    assert find_calibration(str(other), 'hog', model, 'float16')[0] == Calibration.load(found)
    with pytest.raises(SettingError, match='gates.calibration = .*site.json: it is for local'):
        find_calibration(str(other), 'hog', model, 'binary')


def test_the_embedded_model_brings_its_own():
    model = load_model('embedded')
    found, why = find_calibration('', 'embedded', model, 'float16')
    assert why == ''
    assert found is not None
    assert found.reliability['expected_calibration_error'] <= 0.05
    surely = Match(KEYFRAME, 0, 0.95, 480, 0.5, 0.9)
    hardly = Match(KEYFRAME, 0, 0.8, 200, found.unrelated_score, 0.7)
    assert found.judge(surely).probability > 0.95
    assert found.judge(hardly).probability < 0.05
    assert 'not in binary' in find_calibration('', 'embedded', model, 'binary')[1]
