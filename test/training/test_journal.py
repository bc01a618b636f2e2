import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selavpr_ros.errors import SettingError
from selavpr_ros.training.journal import Journal


def read(folder, name):
    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, round(event.value, 4)) for event in events.Scalars(name)]


def test_figures_can_be_read_back_while_the_training_goes_on(tmp_path):
    journal = Journal(tmp_path)
    journal.write('loss', {'step': 0, 'global': 0.5, 'local': 2.0})
    assert read(tmp_path, 'loss/global') == [(0, 0.5)]
    journal.write('loss', {'step': 7, 'global': 0.25, 'local': 1.0})
    journal.write('validation', {'step': 7, 'recall@1': 0.75})
    assert read(tmp_path, 'loss/global') == [(0, 0.5), (7, 0.25)]
    assert read(tmp_path, 'loss/local') == [(0, 2.0), (7, 1.0)]
    assert read(tmp_path, 'validation/recall@1') == [(7, 0.75)]


def test_a_second_run_adds_to_the_first(tmp_path):
    for step in (1, 2):
        Journal(tmp_path).write('loss', {'step': step, 'global': float(step)})
    # Files of one second are read in any order.
    assert sorted(read(tmp_path, 'loss/global')) == [(1, 1.0), (2, 2.0)]


def test_a_missing_tensorboard_gives_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(SettingError, match='pip install tensorboard'):
        Journal(tmp_path)
