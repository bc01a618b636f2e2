"""Weather over a red wall on a green plain, whose pixels are known without it."""

from dataclasses import replace

import numpy as np
import pytest

from selavpr_ros.pose import Pose
from selavpr_ros.simulation import Camera, Light, Season, render
from selavpr_ros.simulation.materials import LIT_WINDOW, SNOW
from selavpr_ros.simulation.weather import FOG_COLOUR

ORIGIN = Pose.planar(0.0, 0.0, 0.0)
CAMERA = Camera(width=200, height=160, horizontal_fov_rad=np.pi / 2, height_m=1.2)
PLAIN = Light(sun_strength=0.0, vignette=0.0, noise=0.0, blur_px=0.0, haze_range_m=1e9)
RED = (200, 10, 10)
WALL, GROUND = np.s_[50:100, 65:115], np.s_[150:, 10:190]


@pytest.fixture
def see(make_world, wall_ahead):
    """(changes of the light) -> the image, float; the wall stands at WALL, 5 m ahead."""

    def take(wall_x_m=5.0, colour=RED, rng=None, **changes):
        left_m, right_m, top_m = np.array([0.4, -0.2, 0.36]) * wall_x_m + (0.0, 0.0, 1.2)
        world = make_world([wall_ahead(wall_x_m, left_m, right_m, top_m, colour)])
        return render(world, CAMERA, ORIGIN, replace(PLAIN, **changes), rng).astype(float)

    return take


def test_rain_darkens_the_ground_and_leaves_the_wall(see):
    dry, wet = see(), see(rain=1.0)

    assert wet[GROUND][..., 1].mean() < 0.7 * dry[GROUND][..., 1].mean()
    np.testing.assert_array_equal(wet[WALL], dry[WALL])


def test_a_wet_street_mirrors_the_wall_below_its_foot(see):
    below_wall, below_sky = (see(rain=1.0)[106:116, at] for at in (np.s_[70:110], np.s_[130:170]))

    assert below_wall[..., 0].mean() > 1.5 * below_sky[..., 0].mean()
    assert below_sky[..., 2].mean() > 2.0 * below_wall[..., 2].mean()


def test_fog_leaves_a_known_share_of_the_colour(see):
    kept = np.exp(-5.0 / 10.0)

    seen = see(sight_m=10.0)[WALL].mean(axis=(0, 1))

    expected = kept * np.array(RED) + (1 - kept) * np.array(FOG_COLOUR)
    np.testing.assert_allclose(seen, expected, atol=1.5)


def test_fog_hides_a_far_wall(see):
    far = see(wall_x_m=50.0, sight_m=10.0)

    assert np.ptp(far[:80], axis=(0, 1)).max() <= 4
    assert np.ptp(see(wall_x_m=50.0)[:80], axis=(0, 1)).max() > 100


def test_night_spares_lit_windows(see):
    dark, lit = (see(colour=colour, darkness=1.0)[WALL].mean() for colour in (RED, LIT_WINDOW))

    assert dark < 0.4 * np.mean(RED)
    assert lit > np.mean(LIT_WINDOW)


def test_snow_covers_the_ground_and_not_the_wall(see):
    white = see(season=Season.WINTER, cover=1.0)

    assert white[GROUND].mean() > 0.9 * np.mean(SNOW)
    np.testing.assert_array_equal(white[WALL], see()[WALL])


def test_snow_lies_as_far_down_a_wall_as_it_may(make_world, wall_ahead):
    roof = replace(wall_ahead(5.0, 2.0, -1.0, 3.0, RED), snow_m=0.5)
    snow = replace(PLAIN, season=Season.WINTER, cover=1.0)

    image = render(make_world([roof]), CAMERA, ORIGIN, snow)

    is_white = image[44:104, 90, 1] > 200  # row = 79.5 - (z - 1.2) * 100 / 5
    assert np.flatnonzero(is_white).tolist() == list(range(10))


def test_fallen_leaves_are_for_autumn_only(see):
    np.testing.assert_array_equal(see(season=Season.SUMMER, cover=1.0), see())
    autumn = see(season=Season.AUTUMN, cover=1.0)[GROUND].mean(axis=(0, 1))
    assert autumn[0] > autumn[1] > autumn[2]


@pytest.mark.parametrize('weather', ['rain', 'snowfall'])
def test_what_falls_comes_from_the_generator(see, weather):
    still, first, again, other = (
        see(**{weather: 1.0}, rng=rng and np.random.default_rng(rng)) for rng in (None, 1, 1, 2)
    )

    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 30
    assert (first - still)[WALL].mean() > 1.0


def test_motion_blur_is_horizontal(see):
    sharp, smeared = see(), see(smear_px=20.0, rng=np.random.default_rng(4))

    edges = [((red > 45) & (red < 195)).sum() for red in (sharp[75, :, 0], smeared[75, :, 0])]
    assert edges[1] > edges[0] + 4
    np.testing.assert_allclose(smeared[60:90, 90], sharp[60:90, 90], atol=1)
