"""Folders, bags and simulated towns -> walks."""

import dataclasses

import bags
import cv2
import laps
import numpy as np
import pytest
import torch

from selavpr_ros.errors import BagError, GroundTruthError, SettingError
from selavpr_ros.pose import Pose
from selavpr_ros.training.data import Places, Rules
from selavpr_ros.training.sources import STORED_SIDE, Source, find_walks

SECOND_NS = 1_000_000_000


def write_images(folder, names):
    """Images whose brightness is their number."""
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((8, 10, 3), number, np.uint8))


def find(folder, path='', kind='walk', **settings):
    return find_walks(folder, Source(path, kind, **settings), folder / 'cache')


def numbers(walk):
    """Which of the written images a walk is made of."""
    return [int(image()[0, 0, 0]) for image in walk.images]


# ---- folders ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path, [
        *(f'floor1/f1_hall_frame_{n:03d}.png' for n in range(3)),
        *(f'floor1/f1_lift_frame_{n:03d}.png' for n in range(2)),
        'floor2/0001.png', 'floor2/0002.png', 'other/0001.png'])
    (tmp_path / 'floor1' / 'notes.txt').write_text('no image')
    return tmp_path


def test_walks_are_files_of_one_folder_and_name(folder):
    walks = find(folder, 'floor*')
    assert [numbers(walk) for walk in walks] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [walk.kind for walk in walks] == ['walk'] * 3
    assert walks[0].group == walks[1].group != walks[2].group
    assert walks[0].poses is None


def test_hidden_files_and_folders_are_left_out(folder):
    write_images(folder, ['floor2/.thumbnails/0001.png'])
    (folder / 'floor2' / '._0001.png').write_bytes(b'Mac OS X')
    assert [numbers(walk) for walk in find(folder, 'floor2')] == [[5, 6]]


def test_patterns_leave_files_out_and_a_group_can_be_named(folder):
    walks = find(folder.parent, folder.name, group='all', left_out=['floor1/*lift*'])
    assert [numbers(walk) for walk in walks] == [[0, 1, 2], [5, 6], [7]]
    assert {walk.group for walk in walks} == {'all'}


def test_a_path_may_be_absolute_and_hold_signs_of_patterns(folder):
    (folder / 'other').rename(folder / 'a[1]')
    assert len(find(folder / 'floor1', str(folder / 'floor2'))) == 1
    assert len(find(folder, 'a[1]')) == 1
    assert len(find(folder)) == 4


def test_numbers_in_names_count_by_their_value(tmp_path):
    write_images(tmp_path, ['walk/10.png', 'walk/9.png', 'walk/2.png'])
    assert numbers(find(tmp_path, 'walk')[0]) == [2, 1, 0]


def test_names_can_tell_the_place(tmp_path):
    write_images(tmp_path, [f'Bangkok/Bangkok_{place:07d}_20{year}_07_051.png'
                            for place in (1, 2) for year in (12, 15, 18)])
    walks = find(tmp_path, '*', 'place', name=r'^(\w+?_\d+)_')
    assert [numbers(walk) for walk in walks] == [[0, 1, 2], [3, 4, 5]]
    places = Places(walks, Rules(), (14, 14))
    assert places.positives(0).tolist() == [1, 2]
    assert places.different(torch.tensor([0]), torch.arange(6))[0].tolist() == [
        False, False, False, True, True, True]


def test_a_name_that_is_no_pattern_is_refused(folder):
    for pattern in ('(', 'no group'):
        with pytest.raises(SettingError, match='is no regular expression with a group'):
            find(folder, 'floor1', name=pattern.replace('no group', 'f1'))


def test_errors_name_the_folder_and_the_kind(folder):
    with pytest.raises(SettingError, match='floor9: no .jpg or .png'):
        find(folder, 'floor9')
    with pytest.raises(SettingError, match='floor1: no .jpg or .png'):
        find(folder, 'floor1', left_out=['*'])
    with pytest.raises(SettingError, match="kind 'tour' of floor1: take one of walk, place"):
        find(folder, 'floor1', 'tour')


# ---- poses of images ----------------------------------------------------------------------------

HEADER = 'image,x_m,y_m,yaw_rad\n'


def poses_of(folder, table, names=('a_1.png', 'a_2.png')):
    """What is made of a table in the folder of the images."""
    write_images(folder, [f'walk/{name}' for name in names])
    (folder / 'walk' / 'poses.csv').write_text(table)
    return find(folder, 'walk')[0].poses


@pytest.mark.parametrize('table', [
    HEADER + 'a_2.png,3,4,0.5\na_1.png,1,2,-0.5\n', 'a_2.png,3,4,0.5\na_1.png,1,2,-0.5\n'])
def test_a_table_tells_poses_with_and_without_a_header(tmp_path, table):
    np.testing.assert_array_equal(poses_of(tmp_path, table), [[1, 2, -0.5], [3, 4, 0.5]])


def test_columns_have_any_order_and_the_heading_may_be_missing(tmp_path):
    found = poses_of(tmp_path, 'y_m,image,x_m,camera\n2,a_1.png,1,left\n4,a_2.png,3,right\n')
    np.testing.assert_array_equal(found, [[1, 2, np.nan], [3, 4, np.nan]])


def test_poses_may_not_be_known(tmp_path):
    found = poses_of(tmp_path, HEADER + 'a_1.png,nan,nan,nan\na_2.png,,,\n')
    assert np.isnan(found).all()


def test_an_image_without_a_row_is_named(tmp_path):
    with pytest.raises(SettingError, match=r'poses.csv: no row for a_2.png \(2 such images\)'):
        poses_of(tmp_path, HEADER + 'a_1.png,1,2,0\n', ['a_1.png', 'a_2.png', 'a_3.png'])


def test_other_columns_are_named(tmp_path):
    with pytest.raises(GroundTruthError, match='poses.csv has the columns file,x,y: it needs'):
        poses_of(tmp_path, 'file,x,y\na_1.png,1,2\n')


def test_what_is_no_number_is_named_with_its_line(tmp_path):
    with pytest.raises(GroundTruthError, match='poses.csv, line 3: .* are 3,north,0, not all of'):
        poses_of(tmp_path, HEADER + 'a_1.png,1,2,0\na_2.png,3,north,0\n')


def test_a_table_may_lie_above_the_images(tmp_path):
    write_images(tmp_path, ['walk/images/a_1.png', 'walk/b/a_1.png'])
    (tmp_path / 'walk' / 'positions.csv').write_text('a_1.png,1,2\nb/a_1.png,3,4\n')
    beside, inside = find(tmp_path, 'walk')
    np.testing.assert_array_equal(beside.poses, [[3, 4, np.nan]])
    np.testing.assert_array_equal(inside.poses, [[1, 2, np.nan]])


def test_a_table_is_read_once_however_many_walks_there_are(tmp_path, monkeypatch):
    names = [f'{letter}_1.png' for letter in 'abcdef']
    from selavpr_ros.training import sources

    reads = []
    original = sources.read_poses
    monkeypatch.setattr(sources, 'read_poses', lambda path, **options: (
        reads.append(path), original(path, **options))[1])
    poses_of(tmp_path, ''.join(f'{name},1,2\n' for name in names), names)
    assert len(reads) == 1


def test_names_tell_positions(tmp_path):
    write_images(tmp_path, ['q/@0548.5@4180.25@10@S@.jpg', 'q/@0549@-4180@10@S@.jpg',
                            'db/day@1@2@.jpg'])
    day, query = find(tmp_path)
    np.testing.assert_array_equal(query.poses, [[548.5, 4180.25, np.nan], [549, -4180, np.nan]])
    np.testing.assert_array_equal(day.poses, [[1, 2, np.nan]])
    assert query.group == day.group
    assert query.kind == 'mixed'  # in the order of positions
    assert find(tmp_path, 'q', 'place')[0].kind == 'place'


def test_one_name_without_a_position_leaves_it_to_the_order(tmp_path):
    write_images(tmp_path, ['q/@1@2@.jpg', 'q/@north@2@.jpg'])
    assert find(tmp_path, 'q')[0].poses is None


# ---- bags ---------------------------------------------------------------------------------------


def drive(path, xs_m, period_s=1.0, **streams):
    """A bag of images along a line, with a pose each."""
    stamps = [int(n * period_s * SECOND_NS) for n in range(len(xs_m))]
    images = [(ns, laps.picture(n)) for n, ns in enumerate(stamps)]
    poses = [(ns, Pose.planar(x, 0.0, 0.0)) for ns, x in zip(stamps, xs_m, strict=True)]
    return bags.write_image_bag(path, images, **{'odometry': poses, **streams})


def read_bag(path, **settings):
    walk, = find_walks(path.parent, Source(path.name, 'bag', **settings), path)
    return walk


def is_picture(image, picture):
    """Whether it is the same but for JPEG; another picture differs by 80."""
    return image.shape == picture.shape and np.abs(image.astype(int) - picture).mean() < 5


@pytest.mark.parametrize('compressed', [False, True])
def test_a_bag_of_two_laps_gives_positions_in_metres_and_the_right_positives(
    tmp_path, compressed
):
    images, true_poses = laps.images(), laps.true_poses()
    walk = read_bag(bags.write_image_bag(
        tmp_path / 'laps', images, odometry=true_poses, compressed=compressed))
    places = Places([walk], Rules(), (98, 126))
    expected = [true_poses[4 * n][1] for n in range(24)]
    np.testing.assert_allclose(walk.poses[:, :2], [p.translation_m[:2] for p in expected],
                               atol=1e-6)
    np.testing.assert_allclose(walk.poses[:, 2], [p.yaw_rad for p in expected], atol=1e-6)
    for number in range(24):
        assert places.positives(number).tolist() == [(number + 12) % 24]
    assert walk.kind == 'walk'
    for number in (0, 17):
        assert is_picture(places.read(number), images[number][1])


def test_an_image_is_kept_every_half_metre(tmp_path):
    walk = read_bag(drive(tmp_path / 'slow', [0, 0, 0.2, 0.4, 0.55, 0.9, 1.1, 1.1]))
    np.testing.assert_allclose(walk.poses[:, 0], [0, 0.55, 1.1])
    assert is_picture(walk.images[1](), laps.picture(4))


def test_without_odometry_an_image_is_kept_every_second(tmp_path):
    walk = read_bag(drive(tmp_path / 'blind', np.zeros(9), period_s=0.25, odometry=()))
    assert len(walk.images) == 3
    assert np.isnan(walk.poses).all()


def test_true_poses_are_preferred_to_odometry_unless_it_is_asked_for(tmp_path):
    truth = [(n * SECOND_NS, Pose.planar(2.0 * n, 0.0, 0.0)) for n in range(4)]
    path = drive(tmp_path / 'both', [0, 1, 2, 3], truth=truth)
    assert read_bag(path).poses[:, 0].tolist() == [0, 2, 4, 6]
    assert read_bag(path, pose_topic='/odom').poses[:, 0].tolist() == [0, 1, 2, 3]
    assert np.isnan(read_bag(path, pose_topic='none').poses).all()


def test_what_cannot_be_decoded_is_left_out(tmp_path, caplog):
    good = bags.image_message(0, laps.picture(0))
    bad = dataclasses.replace(good, header=bags.header(SECOND_NS), height=999)
    last = bags.image_message(2 * SECOND_NS, laps.picture(2))
    stream = [(0, good), (SECOND_NS, bad), (2 * SECOND_NS, last)]
    walk = read_bag(bags.write_bag(tmp_path / 'bad', {bags.IMAGE_TOPIC: stream}))
    assert len(walk.images) == len(walk.poses) == 2
    assert 'image at 1000000000 ns skipped' in caplog.text


def test_large_images_are_kept_no_larger_than_any_system_needs(tmp_path):
    large = np.full((600, 900, 3), (200, 30, 60), np.uint8)
    walk = read_bag(bags.write_image_bag(tmp_path / 'large', [(0, large)]))
    image = walk.images[0]()
    assert image.shape == (STORED_SIDE, 840, 3)
    assert np.abs(image.astype(int) - (200, 30, 60)).max() < 4


def test_a_thermal_camera_fills_the_range_of_grey(tmp_path):
    values = 7200 + 4 * laps.picture(0)[..., 0].astype('<u2')
    coloured = bags.image_message(0, laps.picture(0))
    message = dataclasses.replace(
        coloured, encoding='mono16', step=2 * coloured.width,
        data=values.view(np.uint8).reshape(-1))
    walk = read_bag(bags.write_bag(tmp_path / 'thermal', {bags.IMAGE_TOPIC: [(0, message)]}))
    assert np.ptp(walk.images[0]()) > 200


def test_a_bag_without_any_pose_for_its_images_says_what_to_do(tmp_path):
    odometry = [(100 * SECOND_NS, Pose.planar(0.0, 0.0, 0.0))]
    path = drive(tmp_path / 'apart', [0, 1], odometry=odometry)
    with pytest.raises(SettingError, match="apart: no image can be used: .* pose_topic 'none'"):
        read_bag(path)


def test_a_bag_of_which_no_image_can_be_decoded(tmp_path):
    bad = dataclasses.replace(bags.image_message(0, laps.picture(0)), height=999)
    path = bags.write_bag(tmp_path / 'bad', {bags.IMAGE_TOPIC: [(0, bad)]})
    with pytest.raises(SettingError, match='bad: no image can be used: image at 0 ns: .*999'):
        read_bag(path)


def test_a_bag_whose_odometry_has_another_clock_names_both_times(tmp_path):
    odometry = [(n * SECOND_NS + 7 * 10**17, Pose.planar(n, 0.0, 0.0)) for n in range(3)]
    path = drive(tmp_path / 'apart', [0, 1], odometry=odometry)
    with pytest.raises(SettingError, match='the images are from 0.000 to .*, the poses from 7000'):
        read_bag(path)


def test_a_bag_that_ends_too_early_is_used_up_to_there(tmp_path):
    path = drive(tmp_path / 'cut', range(20))
    bags.cut_short(path / 'cut.db3', 0.8)
    assert 10 < len(read_bag(path).images) < 20


def test_a_bag_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BagError, match='nothing does not exist'):
        read_bag(tmp_path / 'nothing')


# ---- the simulated world ------------------------------------------------------------------------


@pytest.fixture
def rendered(monkeypatch):
    """Seeds that were rendered; a town is two images then."""
    from selavpr_ros.training import simulated

    seeds = []

    def write_world(folder, places, seed, visits):
        seeds.append(seed)
        write_images(folder, [f'visit_{visit:02d}_0000.jpg' for visit in range(visits)])
        (folder / 'positions.csv').write_text(
            ''.join(f'visit_{visit:02d}_0000.jpg,1,2,0\n' for visit in range(visits)))

    monkeypatch.setattr(simulated, 'write_world', write_world)
    return seeds


def test_towns_are_rendered_and_visits_of_a_town_are_walks_of_a_group(tmp_path, rendered):
    walks = find(tmp_path, kind='simulated', worlds=2, visits=3, seed=5)
    assert rendered == [5, 6]
    assert [len(walk.images) for walk in walks] == [1] * 6
    assert len({walk.group for walk in walks}) == 2
    assert walks[0].kind == 'walk'
    assert Places(walks, Rules(), (14, 14)).positives(0).tolist() == [1, 2]


def test_towns_of_another_entry_are_not_mixed_in(tmp_path, rendered):
    find(tmp_path, kind='simulated', worlds=2, seed=5)
    held_out = find(tmp_path, kind='simulated', worlds=1, seed=70)
    assert {walk.group.rpartition('/')[2] for walk in held_out} == {'town_70_2'}
