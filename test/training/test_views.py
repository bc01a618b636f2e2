"""Warps whose correspondence is known, and changes of light."""

import pytest
import torch

from selavpr_ros.images.preprocess import denormalise, normalise
from selavpr_ros.training.views import (
    pixel_grid,
    randaugment,
    random_homographies,
    relight,
    transform,
    warp,
)


def coordinates_as_image(side, count=1):
    """Images whose first two channels are x and y in [-1, 1]."""
    x, y = pixel_grid(side)[0].T.unflatten(1, (side, side))
    return torch.stack([x, y, torch.zeros_like(x)]).expand(count, -1, -1, -1)


# ---- geometry -----------------------------------------------------------------------------------


def test_strength_zero_keeps_the_image():
    homographies = random_homographies(3, 0.0)
    torch.testing.assert_close(homographies, torch.eye(3).expand(3, -1, -1))
    images = torch.rand(3, 3, 28, 28)
    torch.testing.assert_close(warp(images, homographies, 28), images, atol=1e-5, rtol=0)


def test_four_corners_are_where_the_homography_puts_them():
    """A view of the right half, by hand."""
    homography = torch.tensor([[[0.5, 0, 0.5], [0, 1, 0], [0, 0, 1]]])
    points = transform(homography, torch.tensor([[[-1.0, -1], [0, 0], [1, 1]]]))
    torch.testing.assert_close(points, torch.tensor([[[0.0, -1], [0.5, 0], [1, 1]]]))
    view = warp(coordinates_as_image(100), homography, 100)
    assert view[0, 0, :, 0].max() < 0.02
    assert view[0, 0, :, -1].min() > 0.98


@pytest.mark.parametrize(('size', 'side'), [(200, 160), (280, 224), (200, 100), (97, 70)])
def test_the_correspondence_is_right_to_a_fraction_of_a_pixel(size, side):
    """What a pixel of a view shows lies where the homography says, in pixels of the image."""
    torch.manual_seed(1)
    homographies = random_homographies(20, 1.0)
    views = warp(coordinates_as_image(size, 20), homographies, side)
    seen = views[:, :2].flatten(2).mT
    expected = transform(homographies, pixel_grid(side).expand(20, -1, -1))
    # At the border, pixels have no neighbours to be averaged with.
    inside = expected.abs().amax(dim=-1) < 1 - 2 / size * (1 if side >= 0.75 * size else 3)
    assert inside.float().mean() > 0.9
    error = ((seen - expected) * size / 2)[inside].norm(dim=-1)
    assert error.max() < 0.05


def test_two_views_show_one_spot_at_corresponding_points():
    torch.manual_seed(2)
    first, second = random_homographies(1, 0.4), random_homographies(1, 1.0)
    image, side = coordinates_as_image(224), 224
    views = [warp(image, homography, side)[0, :2] for homography in (first, second)]
    points = pixel_grid(side)
    there = transform(torch.linalg.inv(second), transform(first, points))
    pixel = ((there[0] + 1) * side / 2 - 0.5).round().long()
    seen = ((pixel >= 2) & (pixel < side - 2)).all(dim=1)
    colours = views[1][:, pixel[seen, 1], pixel[seen, 0]]
    error = (views[0].flatten(1)[:, seen] - colours) * side / 2
    assert seen.sum() > 0.3 * side**2
    assert error.norm(dim=0).max() < 1.5  # the nearest pixel of a view that shows less


def test_homographies_stay_inside_the_image_and_are_strong():
    torch.manual_seed(3)
    corners = torch.tensor([[[-1.0, -1], [1, -1], [1, 1], [-1, 1]]]).expand(200, -1, -1)
    moved = transform(random_homographies(200, 1.0), corners)
    assert moved.abs().max() <= 1 + 1e-4
    sides = (moved - moved.roll(1, dims=1)).norm(dim=-1)
    assert sides.min() > 0.6
    assert sides.min() < 1.2  # of 2
    weaker = transform(random_homographies(200, 0.4), corners)
    assert (weaker - corners).norm(dim=-1).mean() < 0.6 * (moved - corners).norm(dim=-1).mean()


def test_random_draws_follow_the_seed():
    drawn = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        drawn.append((random_homographies(2, 1.0), relight(torch.full((2, 3, 28, 28), 90.0))))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert not torch.equal(drawn[0][1], drawn[2][1])


# ---- light --------------------------------------------------------------------------------------


def test_relight_keeps_shape_and_range_and_edges_in_their_place():
    torch.manual_seed(6)
    images = torch.zeros(50, 3, 28, 28)
    images[..., 14:] = 200
    changed = relight(images)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 255
    columns = changed.mean(dim=(1, 2))
    edge = (columns[:, 1:] - columns[:, :-1]).argmax(dim=1)
    assert ((edge - 13).abs() <= 1).float().mean() > 0.95
    assert columns[:, 20].std() > 20  # some are dark, some are bright


def test_relight_survives_black_white_and_values_out_of_range():
    for value in (0.0, 255.0, -20.0, 300.0):
        assert relight(torch.full((4, 3, 28, 28), value)).isfinite().all()


# ---- RandAugment --------------------------------------------------------------------------------


def test_randaugment_changes_each_image_in_its_own_way_and_follows_the_seed():
    torch.manual_seed(7)
    images = normalise((torch.rand(1, 3, 56, 56) * 255).expand(12, -1, -1, -1))
    changed = randaugment(images)
    torch.manual_seed(8)
    first = randaugment(images)
    torch.manual_seed(8)
    assert torch.equal(first, randaugment(images))
    assert not torch.equal(first, changed)
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    pixels = denormalise(changed)
    torch.testing.assert_close(pixels, pixels.round().clamp(0, 255), atol=1e-3, rtol=0)
    assert len({one.sum().item() for one in changed}) > 6
    assert (changed - images).flatten(1).abs().amax(dim=1).max() > 0.1


def test_randaugment_draws_three_operations(monkeypatch):
    from torchvision.transforms import v2

    given = []

    class Recorded(v2.RandAugment):
        def __init__(self, **options):
            given.append(options)
            super().__init__(**options)

    monkeypatch.setattr(v2, 'RandAugment', Recorded)
    randaugment(torch.zeros(1, 3, 14, 14))
    assert given[0]['num_ops'] == 3
