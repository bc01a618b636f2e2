"""The adapters by hand, and where they are."""

from __future__ import annotations

import torch
from models_support import assert_close
from tiny_checkpoints import make
from torch import nn
from torch.nn import functional

from selavpr_ros.models.adapters import (
    Adapter,
    MultiConvAdapter,
    ParallelAdapter,
    SerialAdapter,
    add_multiconv_adapters,
    add_selavpr_adapters,
)
from selavpr_ros.models.backbone import Backbone


class Doubling(nn.Module):
    """Stands for attention or MLP."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def _set(layer: nn.Linear, weight: list[list[float]], bias: list[float]) -> None:
    layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)


def _known_adapter() -> Adapter:
    """(x, y) -> 2 * relu(x + y - 1) + (10, 20)."""
    adapter = Adapter(width=2, hidden=1)
    _set(adapter.down, [[1.0, 1.0]], [-1.0])
    _set(adapter.up, [[2.0], [2.0]], [10.0, 20.0])
    return adapter.requires_grad_(False)


TOKENS = torch.tensor([[[1.0, 3.0], [-1.0, 0.0]]])
ADAPTED = torch.tensor([[[16.0, 26.0], [10.0, 20.0]]])


def test_bottleneck():
    assert_close(_known_adapter()(TOKENS), ADAPTED, atol=0)


def test_serial_adapter_adds_to_what_it_adapts():
    serial = SerialAdapter(Doubling(), width=2, hidden=1)
    serial.adapter = _known_adapter()
    assert_close(serial(TOKENS / 2), TOKENS + ADAPTED, atol=0)


def test_parallel_adapter_sees_the_same_input_and_counts_a_fifth():
    parallel = ParallelAdapter(Doubling(), _known_adapter())
    assert_close(parallel(TOKENS), 2 * TOKENS + 0.2 * ADAPTED, atol=1e-6)


def test_new_adapters_change_nothing():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 56, 56)
    for add, sizes in ((add_selavpr_adapters, (8,)), (add_multiconv_adapters, (8, (4, 2, 2)))):
        backbone = Backbone(width=16, depth=2, num_heads=2).eval()
        _, before = backbone(images)
        add(backbone, *sizes)
        _, after = backbone.eval()(images)
        assert_close(after, before, atol=0)


def test_selavpr_has_two_in_every_block():
    for block in make('selavpr', depth=3).backbone.blocks:
        assert isinstance(block.attn, SerialAdapter)
        assert isinstance(block.mlp, ParallelAdapter)
        assert type(block.attn.adapter) is type(block.mlp.adapter) is Adapter


def test_cricavpr_has_one_in_every_block_beside_the_mlp():
    for block in make('cricavpr', depth=3).backbone.blocks:
        assert isinstance(block.mlp.adapter, MultiConvAdapter)
        assert not isinstance(block.attn, SerialAdapter)


def test_batch_norm_epsilon_is_the_published_one():
    model = make('cricavpr')
    norms = [module.eps for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == [1e-3] * 5 * 2


def test_new_convolutions_start_almost_at_zero():
    adapter = MultiConvAdapter(width=16, hidden=8, branches=(4, 2, 2))
    convolutions = [m for m in adapter.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 5
    for convolution in convolutions:
        assert set(convolution.weight.unique().tolist()) == {convolution.weight[0, 0, 0, 0].item()}
        assert_close(convolution.bias, torch.full_like(convolution.bias, 1e-5), atol=0)
        assert_close(convolution.weight, torch.full_like(convolution.weight, 1e-5), atol=0)


def _branch(grid: torch.Tensor, *steps: nn.Module) -> torch.Tensor:
    """Convolution, normalisation with the running statistics, ReLU; written out."""
    for step in steps:
        conv, norm = step.conv, step.bn
        grid = functional.conv2d(grid, conv.weight, conv.bias, padding=conv.weight.shape[-1] // 2)
        column = (slice(None), None, None)
        scaled = (grid - norm.running_mean[column]) / (norm.running_var[column] + 1e-3).sqrt()
        grid = (scaled * norm.weight[column] + norm.bias[column]).clamp(min=0)
    return grid


def test_convolutions_see_the_patches_and_not_the_class_token():
    adapter = make('cricavpr').backbone.blocks[0].mlp.adapter
    torch.manual_seed(0)
    tokens = torch.randn(2, 1 + 25, 64)
    narrow = adapter.down(tokens).clamp(min=0)
    grid = narrow[:, 1:].reshape(2, 5, 5, 32).permute(0, 3, 1, 2)
    seen = torch.cat([_branch(grid, adapter.branch1), _branch(grid, *adapter.branch2),
                      _branch(grid, *adapter.branch3)], dim=1)
    patches = adapter.up(narrow[:, 1:] + seen.permute(0, 2, 3, 1).reshape(2, 25, 32))
    result = adapter(tokens)
    assert_close(result[:, 0], adapter.up(2 * narrow[:, 0]), atol=1e-5)
    assert_close(result[:, 1:], patches, atol=1e-5)
