"""The demo as a user runs it: real node, real DDS, a small town."""

from __future__ import annotations

import csv
import importlib.util

import cv2
import laps
import pytest
from bags import IMAGE_TOPIC, image_message, write_bag, write_image_bag

from selavpr_ros.cli.main import main

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec('rclpy') is None or importlib.util.find_spec('selavpr_msgs') is None,
    reason='needs ROS 2 and the built selavpr_msgs')


def test_demo_closes_the_loop_and_leaves_a_picture(tmp_path, capsys):
    assert main(['demo', '--length', '60', '--rate', '2', '-o', str(tmp_path / 'out')]) == 0
    lines = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.strip())
    assert lines['model'].startswith('embedded/')
    true, false = (int(part.split()[0]) for part in lines['by'].split('truth')[1].split(',')[:2])
    assert true >= 20
    assert false == 0
    _, before_m, _, _, after_m, *_ = lines['trajectory'].split()
    assert float(after_m) < float(before_m)
    for name in ('report.png', 'trajectories.png'):
        assert cv2.imread(str(tmp_path / 'out' / name)).shape[1] > 500
    with (tmp_path / 'out' / 'queries.csv').open() as file:
        assert len(list(csv.DictReader(file))) > 60


def test_a_bag_that_is_not_there_is_named(tmp_path, capsys):
    assert main(['demo', '--bag', str(tmp_path / 'none.bag'), '-o', str(tmp_path / 'out')]) == 1
    assert 'none.bag' in capsys.readouterr().err


def test_images_of_which_none_can_be_decoded(tmp_path, capsys):
    sent = [(ns, image_message(ns, image)) for ns, image in laps.images()[:6]]
    for _, message in sent:
        message.encoding = 'strange'
    path = write_bag(tmp_path / 'a.bag', {IMAGE_TOPIC: sent})
    assert main(['demo', '--bag', str(path), str(path), '--weights', 'hog', '--rate', '4',
                 '-o', str(tmp_path / 'out')]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'a.bag: the node used none of the 6 images of /camera/image_raw' in error
    log = tmp_path / 'out/day_1/node.log'
    assert error.endswith(f'see {log}')
    assert "unknown encoding 'strange'" in log.read_text()
    assert not (tmp_path / 'out/town.vprmap').exists()


def test_truth_on_another_clock(tmp_path, capsys):
    truth = [(ns - laps.START_NS, pose) for ns, pose in laps.true_poses()]
    path = write_image_bag(tmp_path / 'a.bag', laps.images()[:8], truth=truth)
    assert main(['demo', '--bag', str(path), '--weights', 'hog', '--rate', '4',
                 '-o', str(tmp_path / 'out')]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert 'nothing was judged: no image has a pose of /ground_truth/odom' in error


def test_a_node_that_cannot_start_says_why(tmp_path, capsys):
    assert main(['demo', '--length', '60', '--weights', 'nowhere.pth',
                 '-o', str(tmp_path / 'out')]) == 1
    assert 'nowhere.pth: no such file' in capsys.readouterr().err


def test_the_second_day_finds_itself_in_the_map_of_the_first(tmp_path, capsys):
    """Two runs of the node: another start, another light, an odometry of its own."""
    assert main(['demo', '--days', '2', '--length', '60', '--rate', '3', '--weights', 'hog',
                 '-o', str(tmp_path / 'out')]) == 0
    day_1, day_2 = capsys.readouterr().out.split('\nday 2\n')
    assert 'relocalized' not in day_1
    lines = dict(line.split(maxsplit=1) for line in day_2.splitlines() if line.strip())
    true, false = (int(part.split()[0]) for part in lines['by'].split('truth')[1].split(',')[:2])
    assert true >= 20
    assert false == 0
    after_s, times = float(lines['relocalized'].split()[0]), lines['relocalized'].split()[6]
    assert after_s < 30.0
    assert int(times) >= 15
    with (tmp_path / 'out/day_2/candidates.csv').open() as file:
        accepted = [row for row in csv.DictReader(file) if row['decision'] == 'ACCEPTED']
    # The end of the lap may close with its own beginning, too.
    assert '1' in {row['match_session'] for row in accepted}
    assert {row['match_session'] for row in accepted} <= {'1', '2'}
    assert cv2.imread(str(tmp_path / 'out/day_2/report.png')).shape[1] > 1000
    assert (tmp_path / 'out/town.vprmap').exists()
