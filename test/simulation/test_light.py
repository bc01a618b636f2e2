import numpy as np

from selavpr_ros.simulation import Light, Season, render
from selavpr_ros.simulation.light import EVENING, MORNING


def test_evening_is_darker_and_warmer(town, small_camera):
    pose = town.route.pose_at(20.0)
    morning, evening = (
        render(town, small_camera, pose, light).astype(float) for light in (MORNING, EVENING)
    )

    assert evening.mean() < morning.mean()
    red_to_blue = [image[..., 0].mean() / image[..., 2].mean() for image in (morning, evening)]
    assert red_to_blue[1] > 1.15 * red_to_blue[0]


def test_noise_comes_only_from_a_given_generator(town, small_camera):
    pose, light = town.route.pose_at(20.0), Light(noise=5.0)

    clean, again = (render(town, small_camera, pose, light) for _ in range(2))
    noisy = render(town, small_camera, pose, light, np.random.default_rng(0))

    np.testing.assert_array_equal(clean, again)
    assert 3.0 < (noisy.astype(int) - clean).std() < 7.0


def test_default_tone_curve_keeps_middle_grey():
    curves = Light().tone_curves()

    assert curves.shape == (256, 3)
    assert curves[128].tolist() == [128, 128, 128]
    assert (np.diff(curves.astype(int), axis=0) >= 0).all()


def test_saturation_zero_is_grey(town, small_camera):
    image = render(town, small_camera, town.route.pose_at(20.0), Light(saturation=0.0))

    assert np.ptp(image.astype(int), axis=2).max() <= 2


def test_the_sun_moves_the_shadows(town, small_camera):
    pose = town.route.pose_at(20.0)
    images = [
        render(town, small_camera, pose, Light(sun_azimuth_rad=angle, sun_strength=0.6))
        for angle in (0.0, 3.0)
    ]

    ground = [image[-20:].astype(int) for image in images]
    assert np.abs(ground[0] - ground[1]).max() > 20


def test_drawn_lights_differ_and_are_reproducible():
    first, second = (Light.draw(np.random.default_rng(seed)) for seed in (1, 2))

    assert first != second
    assert first == Light.draw(np.random.default_rng(1))


def test_drawn_lights_are_of_every_kind_and_snow_is_for_winter():
    lights = [Light.draw(np.random.default_rng(seed)) for seed in range(200)]

    assert {light.season for light in lights} == set(Season)
    for name in ('cover', 'rain', 'snowfall', 'darkness', 'smear_px', 'sun_strength'):
        drawn = np.array([getattr(light, name) for light in lights])
        assert 0.03 < (drawn > 0).mean() < 0.9, name
    assert 0.05 < np.mean([light.sight_m < 40.0 for light in lights]) < 0.3
    snowy = [light for light in lights if light.snow > 0 or light.snowfall > 0]
    assert {light.season for light in snowy} == {Season.WINTER}
    assert not any(light.rain > 0 and light.snowfall > 0 for light in lights)
