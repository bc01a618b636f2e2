import csv
import sys

import cv2
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from selavpr_ros.errors import SettingError
from selavpr_ros.training.journal import Journal, write_curves


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
    with pytest.raises(SettingError, match=r"'selavpr_ros\[train\]'"):
        Journal(tmp_path)


def rows(file):
    with file.open() as table:
        return [{name: float(value) for name, value in row.items()}
                for row in csv.DictReader(table)]


def test_curves_come_as_a_picture_and_as_tables(tmp_path):
    losses = [{'step': step, 'global': 2.0 ** -step, 'local': 1.0} for step in range(30)]
    recalls = [{'step': 15, 'recall@1': 0.5}, {'step': 30, 'recall@1': 0.75}]
    write_curves(losses, recalls, tmp_path)
    assert cv2.imread(str(tmp_path / 'curves.png')).std() > 10
    told = rows(tmp_path / 'losses.csv')
    assert [row['step'] for row in told] == [9.5, 24.5]  # the means of 0 to 19, and of 20 to 29
    assert told[0]['global'] == pytest.approx(2 / 20, rel=1e-4)
    assert rows(tmp_path / 'validation.csv') == recalls


def test_a_training_without_validation_has_curves_too(tmp_path):
    write_curves([{'step': 0, 'global': 1.0}], [], tmp_path)
    assert (tmp_path / 'curves.png').stat().st_size
    assert rows(tmp_path / 'validation.csv') == []
