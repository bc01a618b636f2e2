import cv2
import numpy as np
import pytest
import torch

from selavpr_ros.errors import SettingError
from selavpr_ros.training.data import Folder, Places, Walk, find_walks, read_images


@pytest.fixture
def folder(tmp_path):
    names = [f'floor1/f1_hall_frame_{n:03d}' for n in range(3)]
    names += [f'floor1/f1_lift_frame_{n:03d}' for n in range(2)]
    names += ['floor2/0001', 'floor2/0002', 'other/0001']
    for number, name in enumerate(names):
        file = tmp_path / f'{name}.png'
        file.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(file), np.full((8, 10, 3), number, np.uint8))
    return tmp_path


def make_places(*walks):
    """Places from (kind, group, length), without pixels."""
    walks = [Walk(('x',) * length, kind, group) for kind, group, length in walks]
    return Places(walks, np.empty((0,)), same_within=1, other_beyond=2)


def test_walks_are_files_of_one_folder_and_name(folder):
    walks = find_walks(folder, Folder('floor*', 'walk'))
    assert [len(walk.files) for walk in walks] == [3, 2, 2]
    assert walks[0].group == walks[1].group != walks[2].group


def test_patterns_leave_files_out_and_a_group_can_be_named(folder):
    walks = find_walks(folder.parent, Folder(folder.name, 'walk', 'all', ('floor1/*lift*',)))
    assert [len(walk.files) for walk in walks] == [3, 2, 1]
    assert {walk.group for walk in walks} == {'all'}


def test_errors_name_the_folder_and_the_kind(folder):
    with pytest.raises(SettingError, match='floor9: no .jpg or .png'):
        find_walks(folder, Folder('floor9', 'walk'))
    with pytest.raises(SettingError, match="kind 'tour' of floor1"):
        find_walks(folder, Folder('floor1', 'tour'))


def test_images_are_read_as_rgb_squares(folder):
    files = find_walks(folder, Folder('floor1', 'walk'))[0].files
    images = read_images(files)
    assert images.shape == (3, 3, 256, 256)
    assert images[2].max() == images[2].min() == 2


def test_which_images_show_different_places():
    places = make_places(('walk', 'a', 4), ('walk', 'a', 1), ('place', 'b', 2), ('mixed', 'c', 2))
    index = torch.arange(9)
    different = places.different(index, index)
    assert torch.equal(different, different.T)
    assert different[0].tolist() == [False, False, False, True, False, True, True, True, True]
    assert not different[5, 6]
    assert different[7, 8]
    assert not different.diagonal().any()


def test_neighbours_stay_in_their_walk_and_unordered_images_alone():
    places = make_places(('walk', 'a', 3), ('mixed', 'b', 3), ('place', 'c', 2))
    index = torch.arange(8).repeat(50)
    other = places.neighbours(index, torch.Generator().manual_seed(0))
    assert (places.walk[other] == places.walk[index]).all()
    assert ((other - index).abs() <= 1).all()
    assert torch.equal(other[places.kind[index] == 2], index[places.kind[index] == 2])
    assert (other != index).any()


def test_half_of_a_batch_comes_from_one_walk():
    places = make_places(*[('walk', str(n), 10) for n in range(20)])
    batch = next(places.batches(8, torch.Generator().manual_seed(0)))
    assert len(batch) == 8
    assert len(set(places.walk[batch[:4]].tolist())) == 1
    assert len(set(batch[:4].tolist())) == 4
