"""Two views of a place whose pixel correspondence is known: random warps and random light."""

from __future__ import annotations

import torch
from torch.nn import functional

from selavpr_ros.images.preprocess import denormalise, normalise


def _four_point_homographies(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Solve for the homographies (B, 3, 3) that map four points (B, 4, 2) to four others."""
    x, y = source.unbind(-1)
    u, v = target.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=-1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=-1)
    solution = torch.linalg.solve(torch.cat([rows_u, rows_v], 1), torch.cat([u, v], 1))
    return torch.cat([solution, torch.ones(len(x), 1)], dim=1).view(-1, 3, 3)


def random_homographies(count: int, strength: float) -> torch.Tensor:
    """Draw homographies (count, 3, 3) from view to source coordinates, both in [-1, 1].

    A crop of random place and size, whose corners then move freely.

    Args:
        count: number of homographies.
        strength: 0 keeps the image; 1 crops down to 60 % of a side and moves the corners by up
            to 15 % of it.
    """
    def uniform(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(*shape) - 1

    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    side = 1 - strength * 0.2 * (1 + uniform(count, 1, 1))
    centre = uniform(count, 1, 2) * (1 - side)
    aspect = 1 + strength * 0.15 * uniform(count, 1, 2)
    moved = (corners * aspect + strength * 0.15 * uniform(count, 4, 2)) * side + centre
    return _four_point_homographies(corners.expand(count, -1, -1), moved.clamp(-1, 1))


def transform(homographies: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Map points (B, N, 2) by homographies (B, 3, 3)."""
    mapped = functional.pad(points, (0, 1), value=1.0) @ homographies.mT
    return mapped[..., :2] / mapped[..., 2:]


def pixel_grid(side: int) -> torch.Tensor:
    """Centres of side x side pixels in [-1, 1], row-major (1, side * side, 2), x first."""
    ticks = (torch.arange(side) * 2 + 1) / side - 1
    return torch.stack(torch.meshgrid(ticks, ticks, indexing='xy'), dim=-1).view(1, -1, 2)


def warp(images: torch.Tensor, homographies: torch.Tensor, side: int) -> torch.Tensor:
    """Look at images (B, 3, H, W) through homographies: views (B, 3, side, side)."""
    at = pixel_grid(side).to(images.device).expand(len(images), -1, -1)
    points = transform(homographies, at)
    grid = points.unflatten(1, (side, side))
    if side < images.shape[-1] * 0.75:  # average first, or small views alias
        half = [length // 2 for length in images.shape[-2:]]
        images = functional.interpolate(images, half, mode='bilinear', antialias=True)
    return functional.grid_sample(images, grid, padding_mode='border', align_corners=False)


def _smooth_field(like: torch.Tensor, cells: int) -> torch.Tensor:
    """Random fields (B, 1, S, S) that vary over about `cells` lumps a side."""
    count, side = len(like), like.shape[-1]
    coarse = torch.randn(count, 1, cells, cells, device=like.device)
    return functional.interpolate(coarse, size=(side, side), mode='bicubic')


def relight(images: torch.Tensor) -> torch.Tensor:
    """Change light and camera of images (B, 3, S, S) in [0, 255].

    Gamma, gain of the whole and of each colour, shadows and bright spots, blur, noise: what
    differs between two visits of a place while its edges stay.
    """
    count = len(images)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=images.device)

    def chance(probability: float) -> torch.Tensor:
        return (torch.rand(count, 1, 1, 1, device=images.device) < probability).float()

    out = (images.clamp(0, 255) / 255 + 1e-3) ** (0.45 * normal(count, 1, 1, 1)).exp()
    gain = 0.3 * normal(count, 1, 1, 1) + 0.1 * normal(count, 3, 1, 1)
    shade = 0.5 * chance(0.5) * _smooth_field(images, 4)
    out = out * (gain + shade).exp()
    blurred = functional.avg_pool2d(functional.pad(out, (1, 1, 1, 1), mode='replicate'), 3, 1)
    out = torch.lerp(out, blurred, chance(0.3))
    grey = out.mean(dim=1, keepdim=True)
    out = torch.lerp(out, grey.expand_as(out), chance(0.2))
    out = out + 0.04 * chance(0.5) * normal(*out.shape)
    return out.clamp(0, 1) * 255


def randaugment(images: torch.Tensor) -> torch.Tensor:
    """Change each of (B, 3, H, W) normalised images by three random operations of RandAugment.

    What the published CricaVPR and SALAD were trained with: torchvision's operations and their
    default strength, on whole pixel values. Source: Cubuk et al., NeurIPS 2020.
    """
    from torchvision.transforms import InterpolationMode, v2  # takes a second

    change = v2.RandAugment(num_ops=3, interpolation=InterpolationMode.BILINEAR)
    pixels = denormalise(images).round().clamp(0, 255).to(torch.uint8)
    return normalise(torch.stack([change(image) for image in pixels]).to(images))
