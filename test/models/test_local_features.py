"""The two up-convolutions."""

from __future__ import annotations

import pytest
import torch
from models_support import assert_close

from selavpr_ros.models.local_features import UpConvLocalFeatures


@pytest.mark.parametrize(
    ('patches', 'positions'), [((16, 16), (61, 61)), ((23, 36), (89, 141)), ((1, 2), (1, 5))])
def test_grid_and_unit_rows(patches, positions):
    head = UpConvLocalFeatures(width=8, hidden=6, dim=4)
    features = head(torch.randn(2, *patches, 8))
    assert head.grid(patches) == positions
    assert features.shape == (2, positions[0] * positions[1], 4)
    assert_close(features.norm(dim=-1), torch.ones(features.shape[:2]), atol=1e-5)


@torch.no_grad()
def test_what_one_patch_reaches():
    """A patch touches 7 x 7 positions around its own; ReLU comes between the two only."""
    head = UpConvLocalFeatures(width=1, hidden=1, dim=2)
    for convolution in (head.upconv1, head.upconv2):
        convolution.weight.fill_(1)
    head.upconv1.bias.zero_()
    head.upconv2.bias.copy_(torch.tensor([-1.0, 0.0]))
    grid = torch.zeros(1, 5, 6, 1)
    grid[0, 2, 3] = 1
    features = head(grid).view(17, 21, 2)
    touched = features[:, :, 1] > 0
    rows, columns = touched.any(dim=1).nonzero(), touched.any(dim=0).nonzero()
    assert (int(rows.min()), int(rows.max())) == (2 * 4 - 3, 2 * 4 + 3)
    assert (int(columns.min()), int(columns.max())) == (3 * 4 - 3, 3 * 4 + 3)
    assert float(features[0, 0, 0]) == -1  # negative numbers stay
    assert float(head(-grid)[0, 0, 0]) == -1
    assert (head(-grid)[0, :, 1] == 0).all()  # and what was negative before the second is gone
