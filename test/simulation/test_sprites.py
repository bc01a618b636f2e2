from dataclasses import replace

import numpy as np
import pytest

from selavpr_ros.simulation import Light, Season, render
from selavpr_ros.simulation.sprites import paint_bin, paint_tree


@pytest.fixture(scope='module')
def tree():
    return paint_tree(np.random.default_rng(0))


def dressed(sprite, season, cover=0.0):
    return sprite.dressed(Light(season=season, cover=cover)).pixels.astype(int)


def test_a_tree_is_green_golden_bare_and_white(tree):
    summer, autumn, bare = (dressed(tree, season) for season in Season)
    snowy = dressed(tree, Season.WINTER, cover=0.5)

    np.testing.assert_array_equal(summer, tree.pixels)
    np.testing.assert_array_equal(autumn[..., 3], summer[..., 3])
    assert summer[..., 1].sum() > summer[..., 0].sum()
    assert autumn[..., 0].sum() > 1.2 * autumn[..., 1].sum()
    assert bare[..., 3].sum() < 0.7 * summer[..., 3].sum()
    np.testing.assert_array_equal(snowy[..., 3], bare[..., 3])
    assert snowy[..., :3].sum() > 1.3 * bare[..., :3].sum()
    assert (snowy[..., :3].max(axis=2) <= snowy[..., 3]).all()


def test_other_things_know_no_seasons_but_snow():
    litter_bin = paint_bin(np.random.default_rng(0))

    for season in Season:
        np.testing.assert_array_equal(dressed(litter_bin, season), litter_bin.pixels)
    assert (dressed(litter_bin, Season.WINTER, cover=0.5) != litter_bin.pixels).any()


def test_seasons_change_the_trees_and_nothing_else(town, small_camera):
    empty, changed = replace(town, things=()), 0
    for way_m in (5.0, 20.0, 35.0, 50.0):
        pose = town.route.pose_at(way_m)
        summer, winter = (
            [render(world, small_camera, pose, Light(season=season)) for world in (town, empty)]
            for season in (Season.SUMMER, Season.WINTER)
        )
        np.testing.assert_array_equal(summer[1], winter[1])
        changed += (summer[0] != winter[0]).sum()

    assert changed > 500
