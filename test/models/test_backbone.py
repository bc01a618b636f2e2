"""DINOv2's transformer: positions, registers, and what its weights were trained with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models_support import LOCAL_ATOL, assert_close
from PIL import Image
from torch import nn

from selavpr_ros.errors import ImageError
from selavpr_ros.models.backbone import Backbone, patch_grid, resize_position_embedding


def _cubic(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' kernel of cubic convolution."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _weights(side: int, scale: float, count: int) -> np.ndarray:
    """(count, side): how much each stored entry counts for each of the resized ones."""
    weights = np.zeros((count, side))
    for row in range(count):
        position = (row + 0.5) / scale - 0.5
        for tap in range(int(np.floor(position)) - 1, int(np.floor(position)) + 3):
            weights[row, np.clip(tap, 0, side - 1)] += _cubic(np.asarray(position - tap))
    return weights


def _table(width: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(0).standard_normal((1, 1370, width))).float()


@pytest.mark.parametrize('grid', [(16, 18), (12, 40)])
def test_positions_are_sampled_with_the_published_shift(grid):
    table = _table()
    patches = table[0, 1:].reshape(37, 37, 3).double().numpy()
    rows, columns = (_weights(37, (side + 0.1) / 37, side) for side in grid)
    expected = np.einsum('rh,hwd,cw->rcd', rows, patches, columns).reshape(-1, 3)
    resized = resize_position_embedding(table, grid)[0]
    assert_close(resized[0], table[0, 0], atol=0)
    assert_close(resized[1:], torch.from_numpy(expected).float(), atol=1e-5)


def test_models_with_registers_of_dinov2_average_to_the_exact_size():
    table = _table(width=1)
    plane = Image.fromarray(table[0, 1:, 0].reshape(37, 37).numpy())
    expected = np.array(plane.resize((18, 16), Image.Resampling.BICUBIC))  # (width, height)
    resized = resize_position_embedding(table, (16, 18), antialias=True)
    assert_close(resized[0, 1:, 0], torch.from_numpy(expected).flatten(), atol=1e-5)


def test_positions_of_the_trained_grid_are_untouched():
    table = _table()
    assert resize_position_embedding(table, (37, 37)) is table
    assert resize_position_embedding(table, (37, 37), antialias=True) is table


def test_positions_in_low_precision_are_resized_in_float32():
    half = _table().half()
    resized = resize_position_embedding(half, (16, 16))
    assert resized.dtype == torch.float16
    assert_close(resized, resize_position_embedding(half.float(), (16, 16)).half(), atol=0)


def _only_positions(**options: object) -> Backbone:
    """A transformer of one block whose patches say nothing."""
    backbone = Backbone(width=8, depth=1, num_heads=2, **options).requires_grad_(False)
    for parameter in (*backbone.patch_embed.parameters(), backbone.cls_token):
        parameter.zero_()
    backbone.pos_embed.copy_(_table(width=8))
    return backbone


@pytest.mark.parametrize('antialias', [False, True])
def test_registers_enter_after_the_positions_and_have_none(antialias):
    backbone = _only_positions(registers=4, antialias_positions=antialias)
    backbone.register_tokens.copy_(torch.arange(32.0).view(1, 4, 8))
    tokens = backbone.tokens_before_last_block(torch.ones(2, 3, 28, 42))
    positions = resize_position_embedding(backbone.pos_embed, (2, 3), antialias)[0]
    assert tokens.shape == (2, 1 + 4 + 6, 8)
    assert_close(tokens[1, 0], positions[0], atol=0)
    assert_close(tokens[1, 1:5], backbone.register_tokens[0], atol=0)
    assert_close(tokens[1, 5:], positions[1:], atol=0)


@pytest.mark.parametrize('registers', [0, 4])
def test_patches_come_out_row_by_row(registers):
    backbone = Backbone(width=8, depth=1, num_heads=2, registers=registers)
    backbone.blocks[0] = nn.Identity()
    dark = torch.zeros(1, 3, 42, 56)
    lit = dark.clone()
    lit[:, :, 14:28, 42:56] = 1
    (_, before), (cls, after) = backbone(dark), backbone(lit)
    assert (cls.shape, after.shape) == ((1, 8), (1, *patch_grid(lit), 8))
    assert (before != after).any(dim=-1)[0].nonzero().tolist() == [[1, 3]]


def test_what_the_weights_were_trained_with():
    backbone = Backbone(width=64, depth=2, num_heads=4)
    norms = [module.eps for module in backbone.modules() if isinstance(module, nn.LayerNorm)]
    assert norms == [1e-6] * 5
    for block in backbone.blocks:
        assert (type(block.mlp.act), block.mlp.act.approximate) == (nn.GELU, 'none')
        assert (block.attn.num_heads, block.attn.scale) == (4, 16 ** -0.5)
        assert block.mlp.fc1.out_features == 4 * 64
    assert {m.p for m in backbone.modules() if isinstance(m, nn.Dropout)} <= {0.0}


def test_sides_that_are_no_multiple_of_14_are_refused():
    with pytest.raises(ImageError, match='multiples of 14, got 28x43'):
        Backbone(width=8, depth=1, num_heads=2)(torch.zeros(1, 3, 28, 43))


# Every so many rows of a tensor are stored.
@pytest.mark.parametrize(('name', 'case'), [
    ('selavpr', 'sq224'), ('selavpr', 'rect_h168_w252'), ('selavpr_reg', 'sq224'),
    ('selavpr_reg', 'rect_h168_w252'), ('cricavpr', 'sq224'), ('cricavpr', 'sq308')])
def test_tokens_equal_the_published_ones(golden, name, case):
    reference = golden(name)
    expected = reference.outputs[case]
    cls, patches = reference.model.backbone(reference.images(case))
    assert_close(cls, expected['x_norm_clstoken'], LOCAL_ATOL)
    assert_close(patches[:1].flatten(1, 2)[:, ::7], expected['x_norm_patchtokens'], LOCAL_ATOL)


@pytest.mark.parametrize('name', ['selavpr', 'selavpr_reg'])
def test_positions_equal_the_published_ones(golden, name):
    reference = golden(name)
    resized = resize_position_embedding(reference.model.backbone.pos_embed, (16, 16))
    assert_close(resized[:, ::5], reference.outputs['sq224']['pos_embed_interp'], 1e-6)


@pytest.mark.parametrize('case', ['sq224', 'rect_h168_w252'])
def test_maps_of_salad_equal_the_published_ones(golden, case):
    reference = golden('salad')
    expected = reference.outputs[case]
    cls, patches = reference.model.backbone(reference.images(case))
    assert_close(cls, expected['token'], LOCAL_ATOL)
    sampled = patches[:1].permute(0, 3, 1, 2)[:, :, ::3, ::3]
    assert_close(sampled, expected['feat'], LOCAL_ATOL)
