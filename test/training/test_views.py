import torch

from selavpr_ros.training.views import (
    pixel_grid,
    random_homographies,
    relight,
    transform,
    warp,
)


def coordinates_as_image(side):
    """An image whose first two channels are x and y in [-1, 1]."""
    x, y = pixel_grid(side)[0].T.unflatten(1, (side, side))
    return torch.stack([x, y, torch.zeros_like(x)])[None]


def test_strength_zero_keeps_the_image():
    homographies = random_homographies(3, 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(homographies, torch.eye(3).expand(3, -1, -1))


def test_warp_shows_what_the_homography_says():
    homography = random_homographies(1, 1.0, torch.Generator().manual_seed(1))
    view = warp(coordinates_as_image(200), homography, 160)
    seen = view[0, :2].flatten(1).T
    torch.testing.assert_close(seen, transform(homography, pixel_grid(160))[0], atol=6e-3, rtol=0)


def test_homographies_stay_inside_the_image():
    homographies = random_homographies(50, 1.0, torch.Generator().manual_seed(2))
    corners = torch.tensor([[[-1.0, -1], [1, -1], [1, 1], [-1, 1]]]).expand(50, -1, -1)
    assert transform(homographies, corners).abs().max() <= 1 + 1e-4


def test_relight_keeps_shape_and_range_and_follows_the_seed():
    images = torch.rand(4, 3, 28, 28) * 255
    first = relight(images, torch.Generator().manual_seed(3))
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 255
    assert torch.equal(first, relight(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, relight(images, torch.Generator().manual_seed(4)))
