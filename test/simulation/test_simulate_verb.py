import argparse
import subprocess
import sys

import pytest

from selavpr_ros.cli import simulate
from selavpr_ros.errors import BagError, VprError
from selavpr_ros.recordings.bag import Bag


def parse(*words):
    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_writes_bag_and_picture(tmp_path, capsys):
    bag, picture = tmp_path / 'town.bag', tmp_path / 'town.png'
    short = ('--length', 60, '--speed', 20, '--rate', 2, '--size', '64x48')

    simulate.run(parse(bag, *short, '--storage', 'mcap', '--compressed', '--picture', picture))

    assert (bag / 'metadata.yaml').is_file()
    assert picture.is_file()
    assert 'town.bag: ' in capsys.readouterr().out
    with pytest.raises(BagError, match='--overwrite'):
        simulate.run(parse(bag, *short))


def test_another_day_is_the_same_town_in_another_light_from_another_start(tmp_path):
    short = ('--length', 60, '--laps', 1, '--speed', 20, '--rate', 2, '--size', '64x48')
    starts = []
    for day in (1, 2):
        path = tmp_path / f'{day}.bag'
        simulate.run(parse(path, *short, '--session', day))
        with Bag(path) as bag:
            starts.append((bag.poses('/ground_truth/odom')[0], bag.poses('/odom')[0]))
    (first_ns, first), (_, first_odometry) = starts[0]
    (second_ns, second), (_, second_odometry) = starts[1]

    assert second_ns - first_ns == 86_400_000_000_000
    assert first.distance_to(second) > 10.0
    assert first_odometry.distance_to(second_odometry) < 0.5


def test_an_overview_of_one_lap_is_refused_before_anything_is_written(tmp_path):
    bag, picture = tmp_path / 'town.bag', tmp_path / 'town.png'

    with pytest.raises(VprError, match='at least --laps 2'):
        simulate.run(parse(bag, '--laps', 1, '--picture', picture))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('words', 'complaint'),
    [
        (('--size', '320'), "'320' is not of the form 320x240"),
        (('--size', '4x4'), 'too small'),
        (('--laps', '0'), 'at least 1'),
        (('--speed', '-1'), 'not above zero'),
        (('--storage', 'hdf5'), 'invalid choice'),
    ],
)
def test_bad_options_are_refused(capsys, words, complaint):
    with pytest.raises(SystemExit):
        parse('out.bag', *words)

    assert complaint in capsys.readouterr().err


def test_declaring_options_imports_nothing_heavy():
    code = (
        'import argparse, sys; from selavpr_ros.cli import simulate; '
        'simulate.add_arguments(argparse.ArgumentParser()); '
        "print([m for m in ('numpy', 'cv2', 'torch', 'rosbags') if m in sys.modules])"
    )

    result = subprocess.run([sys.executable, '-c', code], capture_output=True, check=True)

    assert result.stdout.decode().strip() == '[]'
