"""Settings: one place, checked."""

from __future__ import annotations

import dataclasses
import re

import pytest

from selavpr_ros.errors import SettingError
from selavpr_ros.pose import Pose
from selavpr_ros.settings import AUTOSTART, IndexSettings, Settings, describe, make_settings


@pytest.mark.parametrize('info', [AUTOSTART, *describe()], ids=lambda info: info.name)
def test_every_setting_is_explained_and_its_default_passes(info):
    assert info.check(info.default) == info.default
    assert len(info.description) > 30
    assert info.description.endswith('.')
    assert info.description[0].isupper() or info.description.startswith(info.choices)
    # Names of other parameters are whole: nobody who reads one description sees its group.
    named = re.findall(r'\b(?:gates|index|keyframe|map|model|query|verify)\.\w+', info.description)
    assert set(named) <= set(Settings().flat())


INFOS = {info.name: info for info in describe()}


def test_flat_and_back():
    values = {'index.top_k': 5, 'robot_id': 3, 'model.input_size': (224, 280)}
    settings = make_settings(values)
    assert settings.index.top_k == 5
    assert make_settings(settings.flat()) == settings
    assert make_settings({}) == Settings()


@pytest.mark.parametrize(('values', 'words'), [
    ({'index.topk': 5}, "there is no setting 'index.topk': do you mean 'index.top_k'?"),
    ({'index.top_k': 0}, r'index.top_k = 0 is not in \[1, 200\]'),
    ({'index.top_k': 'many'}, r"index.top_k = 'many' should be like 20 \(a whole number\)"),
    ({'index.top_k': True}, 'should be like 20'),
    ({'verify.enabled': 1}, 'should be like True'),
    ({'query.max_rate': float('nan')}, r'is not in \[0.05, 60\]'),
    ({'map.max_keyframes': 10**8}, r'is not in \[1, 10000000\]'),
    ({'pose_source': 'gps'}, "pose_source = 'gps' is not one of: odom, none"),
    ({'model.input_size': [224]}, r'should be like \(0, 0\)'),
    ({'model.input_size': ['a', 'b']}, r'should be like \(0, 0\)'),
    ({'frames.base_to_camera': [0, 0, 1]}, r'should be like \(0.0, 0.0.*\(7 numbers\)'),
    ({'frames.base_to_camera': [0, 0, 1, 0, 0, 0, 0]}, 'base_to_camera: rotation .* has norm 0'),
    ({'index.exclude_recent_seconds': float('inf')}, r'is not in \[0, 2147483647\]'),
    ({'gates.min_probability': 0.4}, r'gates.min_probability = 0.4 is not in \[0.5, 1\]'),
    ({'gates.temporal_min': 6}, "there is no setting 'gates.temporal_min'"),
    ({'gates': 3}, "there is no setting 'gates'"),
])
def test_bad_values_are_refused_with_a_sentence(values, words):
    with pytest.raises(SettingError, match=words):
        make_settings(values)


def test_whole_numbers_and_lists_are_taken_where_meant():
    settings = make_settings({'query.max_rate': 5, 'model.input_size': [224, 224]})
    assert settings.query.max_rate == 5.0
    assert isinstance(settings.query.max_rate, float)
    assert settings.model.input_size == (224, 224)
    assert settings.frames.camera is None
    placed = make_settings({'frames.base_to_camera': [0.2, 0, 1, 0, 0, 0, 1]}).frames
    assert placed.base_to_camera == (0.2, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert placed.camera == Pose([0.2, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0])


@pytest.mark.parametrize(('name', 'text', 'value'), [
    ('map.path', '12', '12'), ('map.path', 'on', 'on'), ('robot_id', '12', 12),
    ('gates.max_drift', '1', 1.0), ('gates.max_drift', '1e-1', 0.1), ('debug.image', 'Off', False),
    ('debug.image', '1', True), ('model.input_size', '[224, 308]', (224, 308))])
def test_a_text_is_read_by_the_type_of_the_setting(name, text, value):
    parsed = INFOS[name].parse(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(('name', 'text', 'words'), [
    ('robot_id', 'abc', r"robot_id = 'abc' should be like 0 \(a whole number\)"),
    ('robot_id', '08', r"robot_id = '08' should be .*\(a whole number, without leading zeros\)"),
    ('robot_id', '010', 'without leading zeros'), ('robot_id', '1_0', 'a whole number'),
    ('robot_id', '3.0', 'a whole number'), ('robot_id', '-1', 'is not in'),
    ('robot_id', '9' * 5000, 'a whole number'), ('gates.max_drift', '1_0', 'a number'),
    ('gates.max_drift', 'nan', 'is not in'), ('gates.max_drift', '', 'a number'),
    ('debug.image', 'maybe', 'true or false'), ('model.input_size', '224', '2 numbers'),
    ('model.input_size', '[224', '2 numbers'), ('map.mode', 'mappin', 'is not one of')])
def test_a_text_that_is_no_value_is_refused(name, text, words):
    with pytest.raises(SettingError, match=words):
        INFOS[name].parse(text)


def test_groups_check_themselves():
    with pytest.raises(SettingError, match='top_k = 500'):
        IndexSettings(top_k=500)
    with pytest.raises(SettingError):
        dataclasses.replace(Settings(), robot_id=-1)
