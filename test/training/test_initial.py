import torch

from selavpr_ros.models.selavpr import SelaVPR
from selavpr_ros.training.initial import edge_filters, initialise, pixel_filters
from selavpr_ros.training.recipe import ARCHITECTURE


def test_patches_are_copied_without_their_mean():
    filters = pixel_filters(256)
    response = torch.einsum('ochw->o', filters)[:196]
    assert filters.shape == (256, 3, 14, 14)
    assert response.abs().max() < 0.4  # of 1.5 for a single bright pixel


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
    model = SelaVPR(**ARCHITECTURE)
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
