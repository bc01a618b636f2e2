import pytest
import torch

from selavpr_ros.errors import SettingError
from selavpr_ros.models.selavpr import SelaVPR
from selavpr_ros.training.initial import edge_filters, initialise, pixel_filters, position_table

SIZES = {'width': 256, 'depth': 4, 'num_heads': 4, 'adapter_hidden': 8, 'local_hidden': 8,
         'local_dim': 8}


def test_patches_are_copied_without_their_mean():
    filters = pixel_filters(256)
    response = torch.einsum('ochw->o', filters)[:196]
    assert filters.shape == (256, 3, 14, 14)
    assert response.abs().max() < 0.4  # of 1.5 for a single bright pixel
    assert (filters[-32:] == 0).all()  # the place of the position
    brightest = filters[:196].sum(dim=1).flatten(1).argmax(dim=1)
    assert brightest.tolist() == list(range(196))


def test_positions_are_smooth_and_tell_rows_from_columns():
    table = position_table(256)
    assert table.shape == (1, 1370, 256)
    assert (table[..., :224] == 0).all()
    assert (table[0, 0] == 0).all()
    grid = table[0, 1:, 224:].unflatten(0, (37, 37))
    assert torch.equal(grid[0, :, :16], grid[30, :, :16])  # of the column
    assert torch.equal(grid[:, 0, 16:], grid[:, 30, 16:])  # of the row
    near, far = (grid[18, 18] @ grid[18, 18 + step] for step in (1, 12))
    assert near > far


def test_edge_filters_prefer_their_own_direction():
    filters, share = edge_filters()
    assert filters.shape == (784, 196)
    assert share.shape == (784, 128)
    ramp = torch.arange(14.0).expand(14, 14).flatten()
    responses = (filters @ ramp).view(49, 16)
    inner = responses.unflatten(0, (7, 7))[1:-1, 1:-1]  # the outer ones are cut by the border
    assert (inner.argmax(dim=-1) == 0).all()
    # A filter and its opposite vote for one orientation.
    assert torch.equal(share.view(49, 16, 128)[:, 0], share.view(49, 16, 128)[:, 8])


def test_heads_of_the_first_blocks_look_at_the_four_neighbours():
    torch.manual_seed(0)
    model = SelaVPR(**SIZES)
    initialise(model)
    backbone = model.backbone
    block = backbone.blocks[0]
    with torch.no_grad():
        patches = backbone.patch_embed(0.1 * torch.randn(1, 3, 224, 224))
        tokens = block.norm1(backbone._pos_embed(patches))
        query, key, _ = block.attn.wrapped.qkv(tokens).unflatten(-1, (3, 4, 64)).unbind(2)
    own = 1 + 16 * 8 + 8
    seen = torch.einsum('hd,nhd->hn', query[0, own], key[0]).argmax(dim=1) - own
    assert seen.tolist() == [-1, 1, -16, 16]


@pytest.mark.parametrize('change', [
    {'width': 228}, {'num_heads': 8}, {'depth': 3}])
def test_a_network_that_is_too_small_is_refused(change):
    with pytest.raises(SettingError, match='edges need a width above 228, 4 heads and a depth'):
        initialise(SelaVPR(**{**SIZES, **change}))
