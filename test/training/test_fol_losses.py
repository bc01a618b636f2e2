"""FoL's losses against the published values, and against what can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from models_support import Golden
from tiny_checkpoints import make
from torch.nn import functional

from selavpr_ros.models.base import Descriptors
from selavpr_ros.models.families.fol import FoLOutputs, clip_outliers, patch_confidence
from selavpr_ros.training import fol_losses
from selavpr_ros.training.fol_losses import (
    FOL_WEIGHTS,
    alignment_loss,
    contrast_loss,
    divergence,
    features_of_patches,
    fol_terms,
    hardest_triplet_loss,
    image_pairs,
    pseudo_correspondence_loss,
    pseudo_correspondences,
)
from selavpr_ros.training.losses import local_triplet_loss, multi_similarity_loss

NOBODY = (torch.zeros(0, dtype=torch.int64),) * 2


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def assert_close(found: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


# ---- pairs --------------------------------------------------------------------------------------


def test_pairs_are_other_images_of_the_place():
    places = torch.tensor([3, 3, 8, 3, 5, 5])
    seen = set()
    for seed in range(20):
        images, others = image_pairs(places, torch.Generator().manual_seed(seed))
        assert images.tolist() == [0, 1, 3, 4, 5]
        assert torch.equal(places[images], places[others])
        assert (images != others).all()
        seen.add(others[0].item())
    assert seen == {1, 3}


def test_no_pairs_without_a_second_image():
    images, others = image_pairs(torch.tensor([1, 2, 3]))
    assert images.shape == others.shape == (0,)


# ---- alignment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(('case', 'count'), [
    ('sq322', 2), ('sq504', 1), ('sq322_img0_testFalse', 1)])
def test_divergences_equal_the_published_ones(shared, tmp_path, case, count):
    """Published in float32: terms near 2e-3 that cancel to 1e-5, and so are rounded by 2e-7.

    In the sum of both, most of this rounding cancels too.
    """
    golden = Golden(shared / 'goldens/fol_tiny.pt', tmp_path / 'fol.pth')
    expected = golden.outputs[case]
    outputs = golden.model.training_outputs(golden.images(case.split('_')[0])[:count])
    kept, attended = patch_confidence(outputs.shares), clip_outliers(outputs.attention)
    assert_close(divergence(kept, attended), expected['kl1'], 2.5e-7)
    assert_close(divergence(attended, kept), expected['kl2'], 2.5e-7)
    both = alignment_loss(outputs.shares, outputs.attention)
    assert_close(both, expected['kl1'] + expected['kl2'], 2e-8)


def test_divergence_by_hand():
    one, other = torch.tensor([[0.0, 0], [0, 0]]), torch.tensor([[math.log(3), 0], [0, 0]])
    assert_close(divergence(one, other), torch.tensor(math.log(4 / 3) / 4), 1e-7)
    back = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert_close(divergence(other, one), torch.tensor(back / 2), 1e-7)


def test_alignment_is_zero_where_both_agree_and_else_pulls_both():
    shares = torch.rand(2, 4, 100, requires_grad=True)
    attention = torch.rand(2, 100, requires_grad=True)
    assert alignment_loss(shares, shares.mean(dim=1)).abs() < 1e-9
    alignment_loss(shares, attention).backward()
    assert shares.grad.any()
    assert attention.grad.any()


def test_alignment_gradient():
    torch.manual_seed(0)
    shares, attention = torch.rand(2, 3, 12).double(), torch.rand(2, 12).double()
    assert torch.autograd.gradcheck(
        alignment_loss, (shares.requires_grad_(), attention.requires_grad_()))


# ---- contrast -----------------------------------------------------------------------------------


def test_contrast_by_hand():
    features = torch.eye(2).expand(2, 2, 2)
    masks = torch.tensor([[1.0, 0], [0.6, 0.8]])
    pairs = torch.tensor([0]), torch.tensor([1])
    background = 0.2 / math.hypot(0.4, 0.2)
    expected = 0.7 * (1 - 0.6) + 0.3 * (1 - background)
    assert_close(contrast_loss(features, masks, pairs), torch.tensor(expected), 1e-6)


def test_contrast_of_an_image_with_itself_is_zero():
    features, masks = unit(1, 20, 8).expand(2, -1, -1), torch.rand(1, 20).expand(2, -1)
    assert contrast_loss(features, masks, image_pairs(torch.tensor([0, 0]))).abs() < 1e-6


def test_contrast_teaches_the_masks_only():
    features, masks = unit(2, 9, 4, dtype=torch.float64), torch.rand(2, 9, dtype=torch.float64)
    pairs = torch.tensor([0, 1]), torch.tensor([1, 0])
    features.requires_grad_()
    masks.requires_grad_()
    assert torch.autograd.gradcheck(lambda mask: contrast_loss(features, mask, pairs), masks)
    contrast_loss(features, masks, pairs).backward()
    assert features.grad is None


def test_contrast_without_pairs_costs_nothing_and_has_a_gradient():
    masks = torch.rand(2, 9, requires_grad=True)
    loss = contrast_loss(unit(2, 9, 4), masks, NOBODY)
    loss.backward()
    assert loss == 0
    assert not masks.grad.any()


# ---- pseudo-correspondences ---------------------------------------------------------------------


def outputs_of(attention, shares, tokens, local_map=None) -> FoLOutputs:
    """Two images with 2 x 3 patches."""
    local_map = unit(2, 5 * 9, 4) if local_map is None else local_map
    descriptors = Descriptors(unit(2, 8), local_map)
    return FoLOutputs(descriptors, attention, shares, tokens.unflatten(1, (2, 3)), local_map,
                      torch.rand(2, 5 * 9))


@pytest.fixture
def outputs():
    """Patch n of one image shows what patch 5 - n of the other does; all share cluster 1."""
    tokens = torch.eye(6) + 0.1
    shares = torch.zeros(2, 3, 6)
    shares[:, 1] = 0.2
    return outputs_of(torch.full((2, 6), 0.2), shares, torch.stack([tokens, tokens.flip(0)]))


def found(outputs: FoLOutputs) -> list[tuple[int, int]]:
    anchors, matches, _ = pseudo_correspondences(outputs, 0, 1)
    return list(zip(anchors.tolist(), (matches - 6).tolist(), strict=True))


def test_correspondences_are_found_without_the_first(outputs):
    assert found(outputs) == [(1, 4), (2, 3), (3, 2), (4, 1), (5, 0)]
    assert_close(pseudo_correspondences(outputs, 0, 1)[2], torch.ones(5), 1e-6)


def test_patches_with_little_attention_look_for_nothing(outputs):
    outputs.attention[0] = torch.tensor([0.09, 0.2, 0.05, 0.1, 0.2, 0.3])
    assert found(outputs) == [(4, 1), (5, 0)]


def test_candidates_share_the_cluster(outputs):
    outputs.shares[1, 1, 3] = 0.09
    outputs.shares[1, 2, 3] = 0.9
    assert found(outputs) == [(1, 4), (3, 2), (4, 1), (5, 0)]
    outputs.shares[0, 2, 5] = 0.9  # alone in its cluster with patch 3, which it is not like
    assert found(outputs) == [(1, 4), (3, 2), (4, 1)]


def test_a_single_candidate_is_not_trusted(outputs):
    outputs.shares[1, 1] = torch.tensor([0, 0, 0, 0.2, 0, 0])
    assert found(outputs) == []
    outputs.shares[1, 1, 0] = 0.2
    assert found(outputs) == [(2, 3), (5, 0)]


def test_the_counterpart_is_much_more_alike_than_the_next(outputs):
    outputs.patches[1].flatten(0, 1)[5] = outputs.patches[0].flatten(0, 1)[2]
    assert (2, 3) not in found(outputs)  # now there are two of them
    outputs.patches[1, 0, 1] = 2 * torch.rand(6) - 0.5
    assert (4, 1) not in found(outputs)


def test_at_most_five_correspondences_in_an_image(outputs, monkeypatch):
    monkeypatch.setattr(fol_losses, 'CORRESPONDENCES', 2)
    assert found(outputs) == [(1, 4), (2, 3)]


def test_patches_lie_at_every_fourth_local_feature():
    torch.manual_seed(0)
    local_map = torch.randn(2, 9, 13, 4)  # of 3 x 4 patches
    features = features_of_patches(local_map.flatten(1, 2), 3).unflatten(1, (3, 4))
    assert_close(features[:, 1, 2], local_map[:, 3:6, 7:10].mean(dim=(1, 2)), 1e-6)
    assert_close(features[:, 0, 3], local_map[:, :2, 11:].mean(dim=(1, 2)), 1e-6)


def test_correspondence_loss_by_hand(outputs):
    features = features_of_patches(outputs.local_map, 2)
    pairs = torch.tensor([0]), torch.tensor([1])
    cosines = functional.cosine_similarity(features[0, 1:], features[1].flip(0)[1:])
    loss = pseudo_correspondence_loss(outputs, pairs)
    assert_close(loss, (1 - cosines).mean(), 1e-6)
    both = pseudo_correspondence_loss(outputs, (torch.tensor([0, 1]), torch.tensor([1, 0])))
    back = functional.cosine_similarity(features[1, 1:], features[0].flip(0)[1:])
    assert_close(both, (1 - torch.cat([cosines, back])).mean(), 1e-6)


def test_correspondence_loss_weighs_by_the_similarity(outputs):
    outputs.patches[1, 1, 1, 0] = 0.5  # patch 4 of the other image, a bit less like patch 1
    weights = pseudo_correspondences(outputs, 0, 1)[2]
    assert 0.8 < weights[0] < 0.99
    features = features_of_patches(outputs.local_map, 2)
    cosines = functional.cosine_similarity(features[0, 1:], features[1].flip(0)[1:])
    loss = pseudo_correspondence_loss(outputs, (torch.tensor([0]), torch.tensor([1])))
    assert_close(loss, (weights * (1 - cosines)).mean(), 1e-6)


def test_correspondences_teach_the_local_features_only(outputs):
    local_map = outputs.local_map.double().requires_grad_()
    tokens = outputs.patches.requires_grad_()
    pairs = torch.tensor([0, 1]), torch.tensor([1, 0])

    def loss(local_map: torch.Tensor) -> torch.Tensor:
        return pseudo_correspondence_loss(replace(outputs, local_map=local_map), pairs)

    assert torch.autograd.gradcheck(loss, local_map)
    loss(local_map).backward()
    assert tokens.grad is None


@pytest.mark.parametrize('pairs', [NOBODY, (torch.tensor([0]), torch.tensor([1]))])
def test_without_correspondences_nothing_is_asked_for(outputs, pairs):
    nothing = replace(outputs, attention=torch.zeros(2, 6))
    local_map = outputs.local_map.requires_grad_()
    loss = pseudo_correspondence_loss(nothing, pairs)
    loss.backward()
    assert loss == 0
    assert not local_map.grad.any()


# ---- local triplets -----------------------------------------------------------------------------


def test_hardest_triplets_by_hand():
    angles = torch.tensor([0.0, 0.3, 0.9, 1.0, 1.7])
    descriptors = torch.stack([angles.cos(), angles.sin()], dim=1)
    places = torch.tensor([0, 0, 0, 1, 1])
    local = unit(5, 30, 2)  # with two dimensions many pairs are above 0.7
    triplets = [(0, 2, 3), (1, 2, 3), (2, 0, 3), (3, 4, 2), (4, 3, 2)]
    query, positive, negative = ([local[number] for number in side]
                                 for side in zip(*triplets, strict=True))
    expected = local_triplet_loss(query, positive, negative, 0.7) / 5
    assert expected > 0
    assert_close(hardest_triplet_loss(local, descriptors, places), expected, 1e-7)


def test_rows_of_zeros_change_nothing():
    local, descriptors, places = unit(4, 30, 3), unit(4, 8), torch.tensor([0, 0, 1, 1])
    padded = functional.pad(local, (0, 0, 0, 5))
    expected = hardest_triplet_loss(local, descriptors, places)
    assert expected > 0
    assert_close(hardest_triplet_loss(padded, descriptors, places), expected, 1e-7)


def test_without_triplets_nothing_is_asked_for():
    local = unit(3, 9, 4).requires_grad_()
    loss = hardest_triplet_loss(local, unit(3, 8), torch.tensor([2, 2, 2]))
    loss.backward()
    assert loss == 0
    assert not local.grad.any()


# ---- all together -------------------------------------------------------------------------------


def test_all_terms_of_a_network_and_their_gradients():
    torch.manual_seed(0)
    model = make('fol').requires_grad_()
    outputs = model.training_outputs(torch.randn(4, 3, 266, 266))
    places = torch.tensor([7, 7, 9, 9])
    terms = fol_terms(outputs, places, torch.Generator().manual_seed(0))
    assert terms.keys() == FOL_WEIGHTS.keys()
    assert all(term.shape == () and term.isfinite() for term in terms.values())
    overall = outputs.descriptors.global_descriptor
    assert_close(terms['global'], multi_similarity_loss(overall, places), 0)
    sum(FOL_WEIGHTS[name] * term for name, term in terms.items()).backward()
    weight = model.backbone.blocks[-1].attn.qkv.weight
    assert weight.grad.isfinite().all()
    assert weight.grad.any()
