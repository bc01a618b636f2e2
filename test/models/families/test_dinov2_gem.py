"""DINOv2 without training for places: SelaVPR whose adapters do nothing."""

from __future__ import annotations

import pytest
import torch
from models_support import assert_close, inert_tensors
from tiny_checkpoints import make

from selavpr_ros.errors import ImageError
from selavpr_ros.models.backbone import resize_position_embedding

SIZE = (112, 154)


def _without_adapters(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace('.wrapped.', '.'): tensor for name, tensor in state.items()
            if '.adapter.' not in name}


def _same_backbone(registers: int):
    """Both systems on the same transformer."""
    selavpr = make('selavpr', registers=registers)
    for name, parameter in selavpr.named_parameters():
        if '.adapter.' in name:
            parameter.zero_()
    selavpr.aggregation.p.fill_(3)
    plain = make('dinov2_gem', registers=registers)
    plain.backbone.load_state_dict(_without_adapters(selavpr.backbone.state_dict()))
    plain.aggregation.p.fill_(3)
    return selavpr, plain


def test_equals_selavpr_with_adapters_of_zeros():
    selavpr, plain = _same_backbone(registers=0)
    images = torch.randn(2, 3, *SIZE)
    descriptors = plain(images)
    assert_close(descriptors.global_descriptor, selavpr(images).global_descriptor, 1e-6)
    assert descriptors.local_features is None
    assert plain.max_local_features == 0


def test_with_registers_positions_are_averaged_to_the_exact_size():
    selavpr, plain = _same_backbone(registers=4)
    images = torch.randn(1, 3, *SIZE)
    expected = selavpr(images).global_descriptor
    assert float((plain(images).global_descriptor - expected).abs().max()) > 1e-4
    # With the resized positions put into the other system, they agree.
    selavpr.backbone.antialias_positions = True
    assert_close(plain(images).global_descriptor, selavpr(images).global_descriptor, 1e-6)


@pytest.mark.parametrize(('registers', 'antialias'), [(0, False), (4, True)])
def test_how_positions_are_resized(registers, antialias):
    backbone = make('dinov2_gem', registers=registers).backbone
    for parameter in backbone.patch_embed.parameters():
        parameter.zero_()
    backbone.blocks = backbone.blocks[-1:]
    tokens = backbone.tokens_before_last_block(torch.zeros(1, 3, *SIZE))
    expected = resize_position_embedding(backbone.pos_embed, (8, 11), antialias)
    assert_close(tokens[:, 1 + registers:], expected[:, 1:], 0)


@pytest.mark.parametrize('registers', [0, 4])
def test_every_parameter_matters(registers):
    torch.manual_seed(1)
    assert inert_tensors(make('dinov2_gem', registers=registers), torch.randn(1, 3, *SIZE)) == []


def test_sides_that_are_no_multiple_of_14_are_refused():
    with pytest.raises(ImageError, match='multiples of 14, got 112x155'):
        make('dinov2_gem')(torch.zeros(1, 3, 112, 155))
