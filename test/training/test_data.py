"""Which images show the same place: every rule against cases that can be worked out by hand."""

import math
import os

import numpy as np
import pytest
import torch
from places import along, make_places, walk

from selavpr_ros.errors import ImageError, SettingError
from selavpr_ros.images.compressed import read_image
from selavpr_ros.images.preprocess import denormalise
from selavpr_ros.training.data import Places, Rules, Walk

EVERY = torch.arange


def pairs(places):
    """The two relations between all images."""
    every = EVERY(len(places))
    return places.same(every, every), places.different(every, every)


# ---- by order -----------------------------------------------------------------------------------


def test_without_positions_order_and_folders_decide():
    places = make_places(walk(4), walk(1), walk(2, 'place', 'b'), walk(2, 'mixed', 'c'),
                         other_beyond=2)
    same, different = pairs(places)
    assert different[0].nonzero()[:, 0].tolist() == [3, 5, 6, 7, 8]
    assert same[1].nonzero()[:, 0].tolist() == [0, 1, 2]
    assert same[5].nonzero()[:, 0].tolist() == [5, 6]
    assert same[7].nonzero()[:, 0].tolist() == [7]
    assert different[7, 8]


def test_walks_of_one_group_are_never_each_others_negatives():
    _, different = pairs(make_places(walk(3), walk(3), walk(1, group='b')))
    assert not different[:3, 3:6].any()
    assert different[:6, 6].all()


def test_a_reach_longer_than_the_data_stays_in_its_walk():
    same, _ = pairs(make_places(walk(2), walk(2), same_within=50, other_beyond=60))
    assert same[0].tolist() == [True, True, False, False]


# ---- by position --------------------------------------------------------------------------------


def test_positives_are_near_negatives_are_far_and_between_is_neither():
    same, different = pairs(make_places(along([0, 10, 10.01, 25, 25.01])))
    assert same[0].tolist() == [True, True, False, False, False]
    assert different[0].tolist() == [False, False, False, False, True]


def test_no_pair_is_both_and_the_relations_are_symmetric():
    torch.manual_seed(0)
    poses = torch.randn(60, 3).numpy() * (20, 20, 2)
    poses[::7] = np.nan
    places = make_places(walk(30, poses=poses[:30]), walk(20, poses=poses[30:50]),
                         walk(10, 'mixed', poses=poses[50:]), walk(5, 'place', 'b'),
                         heading_rad=1.0)
    same, different = pairs(places)
    assert not (same & different).any()
    assert torch.equal(same, same.T)
    assert torch.equal(different, different.T)
    assert same.diagonal().all()
    metres = torch.cdist(places.poses[:, :2], places.poses[:, :2])
    group = places.group[:, None] == places.group
    assert not same[group & (metres > 10)].any()
    assert not different[group & (metres < 25)].any()


def test_positions_of_two_groups_are_not_compared():
    same, different = pairs(make_places(along([0]), along([0], group='b')))
    assert same.tolist() == torch.eye(2, dtype=torch.bool).tolist()
    assert different[0, 1]


def test_positions_of_one_group_are_compared_across_walks():
    same, different = pairs(make_places(along([0, 100]), along([3, 60])))
    assert same[0].tolist() == [True, False, True, False]
    assert different[0].tolist() == [False, True, False, True]


def test_a_pose_that_is_not_known_leaves_it_to_the_order():
    places = make_places(along([0, np.nan, 2, *range(3, 10), 50]), other_beyond=8)
    same, different = pairs(places)
    assert same[1].nonzero()[:, 0].tolist() == [0, 1, 2]
    assert different[1].nonzero()[:, 0].tolist() == [10]


def test_cameras_that_look_elsewhere_are_neither():
    yaws = [math.pi - 0.1, -math.pi + 0.1, 0.0, np.nan]
    same, different = pairs(make_places(along([0, 1, 2, 3], yaws_rad=yaws), heading_rad=0.5))
    assert same[0].tolist() == [True, True, False, True]
    assert not different.any()


# ---- positives ----------------------------------------------------------------------------------


def test_another_lap_is_preferred_to_the_frames_around():
    xs = [*range(0, 100, 5), *range(0, 100, 5)]
    assert make_places(along(xs)).positives(4).tolist() == [22, 23, 24, 25, 26]


def test_the_frames_around_have_to_do_where_there_is_no_other_lap():
    assert make_places(along(range(0, 100, 5))).positives(4).tolist() == [2, 3, 5, 6]
    assert make_places(walk(5)).positives(4).tolist() == [3]


def test_slow_driving_is_no_other_visit():
    """At half a metre a frame, those of the same pass are near for twenty frames."""
    once = [*np.arange(0, 60, 0.5)]
    places = make_places(along([*once, *once]))
    assert places.positives(60).min() >= len(once)
    assert len(places.positives(60)) == 41


def test_a_way_back_is_another_visit():
    """Sixteen metres on and back: what lies between left the place."""
    places = make_places(along([*range(17), *range(15, -1, -1)]), other_beyond=2)
    assert 32 in places.positives(0)
    assert 3 not in places.positives(0)


def test_other_walks_of_the_group_are_other_visits():
    places = make_places(along([0, 5, 50]), along([1, 40]), along([0], group='b'))
    assert places.positives(0).tolist() == [3]


def test_without_an_order_other_walks_come_first():
    """Names with positions are sorted by these: neighbours in the folder mean nothing."""
    xs = [*np.arange(0, 100, 0.5)]
    alone = make_places(along(xs, 'mixed'))
    assert alone.positives(50).tolist() == [*range(30, 50), *range(51, 71)]
    both = make_places(along(xs, 'mixed'), along([24, 26], 'mixed'))
    assert both.positives(50).tolist() == [200, 201]


def test_images_of_a_place_are_its_positives_and_single_ones_have_none():
    places = make_places(walk(3, 'place'), walk(3, 'mixed', 'b'))
    assert places.positives(1).tolist() == [0, 2]
    assert places.positives(4).tolist() == []


def test_an_image_is_never_its_own_positive():
    xs = [0, 3, 6, 50, 100, 3, 6]
    places = make_places(along(xs), walk(4, group='b'), walk(4, 'place', 'c'))
    assert all(i not in places.positives(i) for i in range(len(places)))


# ---- images -------------------------------------------------------------------------------------


def test_images_come_as_the_model_takes_them():
    places = make_places(walk(2, colours=[(10, 20, 30), (255, 0, 0)]), size=(28, 42))
    assert places[1].shape == (3, 28, 42)
    colour = denormalise(places[0]).mean(dim=(1, 2))
    torch.testing.assert_close(colour, torch.tensor([10.0, 20.0, 30.0]))
    assert places.read(1).shape == (20, 30, 3)
    assert len(places) == 2


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / 'broken.jpg').write_bytes(b'no jpeg')
    for name, words in (('broken.jpg', '7 bytes that .* are no picture'),
                        ('missing.jpg', 'cannot be read: No')):
        images = [lambda name=name: read_image(tmp_path / name)]
        places = Places([Walk(images, 'walk', 'a')], Rules(), (14, 14))
        with pytest.raises(ImageError, match=f'{os.sep}{name}:? {words}'):
            places[0]


def test_there_may_be_no_images_at_all():
    places = Places([], Rules(), (14, 14))
    assert len(places) == 0
    assert places.poses.shape == (0, 3)


def test_rules_that_contradict_themselves_are_refused():
    with pytest.raises(SettingError, match=r'positive_m = 10\.0 and negative_m = 5'):
        Rules(negative_m=5)
    with pytest.raises(SettingError, match='same_within = 9 and other_beyond = 8'):
        Rules(same_within=9)
    with pytest.raises(SettingError, match='heading_rad = 0: above 0'):
        Rules(heading_rad=0)


def test_poses_belong_to_their_images():
    with pytest.raises(SettingError, match=r'a: poses \(2, 3\) of 3 images'):
        walk(3, poses=np.zeros((2, 3)))
