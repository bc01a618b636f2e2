"""FoL against the reference outputs of the published implementation."""

from __future__ import annotations

import pytest
import torch
from models_support import GLOBAL_ATOL, LOCAL_ATOL, assert_close, inert_tensors
from tiny_checkpoints import make
from torch.nn import functional

from selavpr_ros.errors import ImageError
from selavpr_ros.matching.mutual import count_mutual_matches
from selavpr_ros.models.backbone import patch_grid
from selavpr_ros.models.families import fol
from selavpr_ros.models.families.fol import (
    ATTENDED,
    chosen_features,
    class_attention,
    clip_outliers,
    discriminative_patches,
    region_weights,
)

# A patch or two of the published 225 may differ: their confidences are almost equal.
MASK_SLACK = 2


@pytest.fixture(scope='module')
def small():
    return make('fol')


def _attention(model, images):
    tokens = model.backbone.tokens_before_last_block(images)
    return class_attention(model.backbone.blocks[-1], tokens)


def _shares(model, images):
    """What goes where: the transport of an image, (B, M, N)."""
    tokens = model.backbone.tokens_before_last_block(images)
    attention = _attention(model, images)
    cls, patches = model.backbone.last_block(tokens, patch_grid(images))
    attended = torch.where(attention < ATTENDED, 0.0, attention)
    return model.aggregator(cls, patches, 1 - attended)[1]


def _live(features: torch.Tensor) -> torch.Tensor:
    return features[features.norm(dim=1) > 0]


CASES = ['sq322', 'sq504']


@pytest.mark.parametrize('case', CASES)
def test_descriptors_equal_the_published_ones(golden, case):
    reference = golden('fol')
    expected = reference.outputs[case]
    descriptors = reference.model(reference.images(case))
    assert_close(descriptors.global_descriptor, expected['global_'], GLOBAL_ATOL)
    counts = [len(_live(features)) for features in descriptors.local_features]
    assert counts == expected['n_selected']
    stored = expected['local'][0]
    padded = functional.pad(_live(descriptors.local_features[0]), (0, 0, 0, 3600 - counts[0]))
    assert_close(padded[::3600 // len(stored)], stored, LOCAL_ATOL)


@pytest.mark.parametrize('case', CASES)
def test_attention_and_chosen_patches_equal_the_published_ones(golden, case):
    reference = golden('fol')
    expected, images = reference.outputs[case], reference.images(case)
    attention = _attention(reference.model, images)
    assert_close(attention, expected['cls_attention'], GLOBAL_ATOL)
    guide = torch.where(attention < ATTENDED, 0.0, attention)
    assert_close(guide, expected['mask_guide'], GLOBAL_ATOL)
    chosen = discriminative_patches(_shares(reference.model, images))
    differing = (chosen != expected['mask'].flatten(1).bool()).sum(dim=1)
    assert (differing <= MASK_SLACK).all()


def test_global_descriptor_and_transport_of_the_training_mode(golden):
    """There, only the choice of patches is another one."""
    reference = golden('fol')
    image, expected = reference.images('sq322')[:1], reference.outputs['sq322_img0_testFalse']
    assert_close(reference.model(image).global_descriptor, expected['global_'], GLOBAL_ATOL)
    shares = _shares(reference.model, image)[:, :, ::3]
    assert_close(shares, expected['assign_p'], LOCAL_ATOL)


def test_outputs_of_the_training_mode_equal_the_published_ones(golden):
    reference = golden('fol')
    expected = reference.outputs['sq322_img0_testFalse']
    outputs = reference.model.training_outputs(reference.images('sq322')[:1])
    assert_close(outputs.descriptors.global_descriptor, expected['global_'], GLOBAL_ATOL)
    assert_close(outputs.shares[:, :, ::3], expected['assign_p'], LOCAL_ATOL)
    dense = outputs.local_map.unflatten(1, (89, 89))[:, ::4, ::4]
    assert_close(dense, expected['local_separate'], 1e-6)
    soft_mask = outputs.soft_mask.unflatten(1, (89, 89))[:, ::2, ::2]
    assert_close(soft_mask, expected['mask_separate'], 1e-8)
    local = outputs.descriptors.local_features[0]
    assert_close(functional.pad(local, (0, 0, 0, 3600 - len(local)))[::3],
                 expected['local'][0], LOCAL_ATOL)


def test_every_parameter_matters_but_for_what_the_transport_absorbs(small):
    """As in SALAD, a number added to all scores of one cluster is taken back at once."""
    torch.manual_seed(1)
    assert inert_tensors(small, torch.randn(1, 3, 266, 266)) == ['aggregator.score.3.bias']


# ---- the choice of patches ----------------------------------------------------------------------


def test_attention_is_that_of_the_class_token_summed_over_the_heads(small):
    torch.manual_seed(0)
    block, tokens = small.backbone.blocks[-1], torch.randn(2, 1 + 6, 64)
    query, key, _ = block.attn.qkv(block.norm1(tokens)).split(64, dim=2)
    expected = torch.zeros(2, 6)
    for head in range(4):
        of_head = slice(16 * head, 16 * head + 16)
        scores = (query[:, :1, of_head] * key[:, :, of_head]).sum(dim=2) / 16 ** 0.5
        expected += scores.softmax(dim=1)[:, 1:]
    assert_close(class_attention(block, tokens), expected, 1e-6)


def test_the_best_225_patches_are_chosen():
    shares = torch.rand(2, 5, 400)
    chosen = discriminative_patches(shares.clone())
    best = shares.mean(dim=1).topk(225, dim=1).indices
    assert chosen.sum(dim=1).tolist() == [225, 225]
    assert chosen.gather(1, best).all()


def test_the_three_largest_are_clipped():
    """To the value at 5% of the ranking: in an image so large, others then come before them."""
    confidence = torch.arange(4600.0, 0, -1)[None, None]
    assert discriminative_patches(confidence)[0].nonzero().flatten().tolist() == [*range(3, 228)]
    fewer = torch.arange(1296.0, 0, -1)[None, None]
    assert discriminative_patches(fewer)[0].nonzero().flatten().tolist() == [*range(225)]


def test_clipping_leaves_its_input_alone():
    values = torch.arange(100.0, 0, -1)[None]
    assert clip_outliers(values)[0, :6].tolist() == [95, 95, 95, 97, 96, 95]
    assert values[0, 0] == 100


def test_region_weights_are_two_distributions_added():
    shares, attention = torch.rand(2, 5, 300), torch.rand(2, 300)
    weights = region_weights(shares, attention)
    assert_close(weights.sum(dim=1), torch.full((2,), 2.0), 1e-5)
    even = torch.full((2, 300), 0.5)
    expected = clip_outliers(attention).softmax(dim=1) + 1 / 300
    assert_close(region_weights(even[:, None], attention), expected, 1e-8)


def test_features_lie_below_the_chosen_patches(small):
    """A patch covers the positions whose nearest patch it is."""
    torch.manual_seed(0)
    patches, chosen = torch.randn(1, 20, 19, 64), torch.zeros(1, 380, dtype=torch.bool)
    chosen[0, 19 * 7 + 4] = True
    dense = small.local_head(patches).view(1, 77, 73, 16)
    rows = [row for row in range(77) if row * 20 // 77 == 7]
    columns = [column for column in range(73) if column * 19 // 73 == 4]
    expected = dense[0, rows][:, columns].flatten(0, 1)
    assert_close(chosen_features(dense.flatten(1, 2), chosen, (20, 19))[0], expected, 0)


# ---- batches ------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def images():
    torch.manual_seed(2)
    return torch.randn(3, 3, 294, 294)


@pytest.fixture(scope='module')
def alone(small, images):
    return [small(image) for image in images.split(1)]


def test_in_a_batch_rows_of_zeros_fill_up(small, images, alone):
    together = small(images)
    counts = [one.local_features.shape[1] for one in alone]
    assert together.local_features.shape[1] == max(counts) > min(counts)
    for one, count, padded in zip(alone, counts, together.local_features, strict=True):
        assert_close(padded[:count], one.local_features[0], LOCAL_ATOL)
        assert not padded[count:].any()
    expected = torch.cat([one.global_descriptor for one in alone])
    assert_close(together.global_descriptor, expected, 1e-6)


def test_rows_of_zeros_do_not_count_as_matches(small, alone):
    features = [one.local_features[0] for one in alone]
    # A noisy copy, a rotated one, and opposites, for which a row of zeros is the nearest.
    matches = [functional.normalize(features[0] + 0.1 * torch.randn_like(features[0]), dim=1),
               features[1].flip(0), -features[0]]
    padded = [functional.pad(match, (0, 0, 0, 100)) for match in matches]
    query = functional.pad(features[0], (0, 0, 0, 50))
    threshold = small.match_similarity
    assert threshold == 0.7
    counts = count_mutual_matches(features[0], matches, threshold)
    assert counts[0] > 100
    assert torch.equal(count_mutual_matches(query, padded, threshold), counts)


def test_training_outputs_fit_together(small, images, alone):
    outputs = small.training_outputs(images)
    assert outputs.attention.shape == (3, 21 * 21)
    assert outputs.shares.shape == (3, 8, 21 * 21)
    assert outputs.patches.shape == (3, 21, 21, 64)
    assert outputs.local_map.shape == (3, 81 * 81, 16)
    assert outputs.soft_mask.shape == (3, 81 * 81)
    expected = torch.cat([one.global_descriptor for one in alone])
    assert_close(outputs.descriptors.global_descriptor, expected, 1e-6)
    weights = region_weights(outputs.shares, outputs.attention)
    chosen = chosen_features(outputs.local_map, fol.best_patches(weights), (21, 21))
    assert torch.equal(outputs.descriptors.local_features, chosen)
    corners = outputs.soft_mask[:, [0, 80, 80 * 81, -1]]
    assert_close(corners, weights[:, [0, 20, 20 * 21, -1]], 1e-8)


def test_training_outputs_carry_gradients(images):
    model = make('fol').requires_grad_()
    outputs, weight = model.training_outputs(images[:1]), model.backbone.blocks[-1].attn.qkv.weight
    for tensor in (outputs.attention, outputs.shares, outputs.soft_mask, outputs.local_map):
        noise = torch.randn_like(tensor)
        assert torch.autograd.grad((tensor * noise).sum(), weight, retain_graph=True)[0].any()


# ---- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(('size', 'reason'), [
    ((224, 224), 'height of at least 266 pixels: .* no room .* got 224x224 pixels'),
    ((252, 252), 'height of at least 266 pixels: .* no room .* got 252x252 pixels'),
    ((252, 504), 'height of at least 266 pixels: .* no room .* got 252x504 pixels'),
    ((322, 126), 'chooses 225 patches .* only 207; got 322x126 pixels'),
    ((330, 322), 'fol takes .* multiples of 14, got 330x322'),
    ((322, 330), 'fol takes .* multiples of 14, got 322x330')])
def test_sizes_are_refused_with_the_reason(small, size, reason):
    with pytest.raises(ImageError, match=reason):
        small(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(('size', 'room'), [
    ((266, 266), 3500), ((280, 294), 3500), ((294, 266), 3600), ((322, 322), 3600),
    ((504, 504), 3600), ((322, 140), 3600)])
def test_room_for_local_features(small, size, room):
    assert small.why_not(size) == ''
    small.image_size = size
    assert small.max_local_features == room
    assert small(torch.randn(1, 3, *size)).local_features.shape[1] <= room


def test_constants_are_the_published_ones():
    assert (fol.ATTENDED, fol.DISCRIMINATIVE_PATCHES, fol.CLIPPED_PATCHES, fol.CLIP_RANK,
            fol.MATCH_SIMILARITY) == (0.01, 225, 3, 0.05, 0.7)
