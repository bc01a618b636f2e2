"""The losses against the published values, and against what can be worked out by hand."""

import math
import sys

import pytest
import torch
from torch.nn import functional

from selavpr_ros.errors import SettingError
from selavpr_ros.models.base import Descriptors
from selavpr_ros.training.losses import (
    global_contrast_loss,
    global_triplet_loss,
    imitation_loss,
    local_contrast_loss,
    local_triplet_loss,
    multi_similarity_loss,
    mutual_similarity,
    selavpr_terms,
)


def unit(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


# ---- from scratch -------------------------------------------------------------------------------



def test_imitation_is_zero_for_equal_and_two_for_opposite_features():
    rows = functional.normalize(torch.randn(2, 5, 8), dim=-1)
    assert imitation_loss(rows, rows).abs() < 1e-6
    torch.testing.assert_close(imitation_loss(rows, -rows), torch.tensor(2.0))


def test_local_contrast_by_hand():
    rows = torch.eye(3)
    alike = torch.eye(3, dtype=torch.bool)
    expected = math.log(math.e + 2) - 1  # one logit of 1 against two of 0
    loss = local_contrast_loss(rows, rows, alike, 1.0)
    assert math.isclose(loss.item(), expected, rel_tol=1e-6)


def test_local_contrast_ignores_pairs_that_may_be_alike():
    rows = torch.ones(4, 1)
    assert local_contrast_loss(rows, rows, torch.ones(4, 4, dtype=torch.bool), 0.1) == 0


def test_local_contrast_without_any_pair_costs_nothing_and_has_a_gradient():
    query = torch.zeros(0, 8, requires_grad=True)
    loss = local_contrast_loss(query, query, torch.zeros(0, 0, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss == 0
    assert query.grad is not None


def test_global_contrast_counts_known_negatives_only():
    query = torch.tensor([[1.0, 0], [1, 0], [0, 1]])
    negative = torch.tensor([[False, False, True], [False, False, True], [True, True, False]])
    first = math.log(math.e + 1) - 1  # its twin in row 1 does not count
    last = math.log(math.e + 2) - 1
    expected = (2 * first + last) / 3
    loss = global_contrast_loss(query, query, negative, 1.0)
    assert math.isclose(loss.item(), expected, rel_tol=1e-6)


# ---- triplets -----------------------------------------------------------------------------------


def golden(shared, file: str, case: str) -> dict[str, torch.Tensor]:
    return torch.load(shared / 'goldens' / file, weights_only=False)[case]


def assert_close(found: torch.Tensor, expected: torch.Tensor, atol: float) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def test_global_triplet_equals_the_published_value(shared):
    case = golden(shared, 'selavpr_rerank.pt', 'global_triplet')
    loss = global_triplet_loss(case['anchor'], case['positive'], case['negative'])
    assert_close(loss, case['loss'], 1e-6)


def test_local_triplet_and_its_gradients_equal_the_published_ones(shared):
    case = golden(shared, 'selavpr_rerank.pt', 'train_loss')
    names = ('anchor', 'positive', 'negative')
    images = [case[name].flatten(1, 2).requires_grad_() for name in names]
    assert_close(mutual_similarity(images[0], images[1]), case['sim_pos'], 1e-6)
    assert_close(mutual_similarity(images[0], images[2]), case['sim_neg'], 1e-6)
    loss = local_triplet_loss(*images)
    loss.backward()
    assert_close(loss, case['loss'], 1e-6)
    for image, name in zip(images, names, strict=True):
        assert_close(image.grad, case[f'grad_{name}'].flatten(1, 2), 1e-6)


def test_similarity_above_a_threshold_equals_the_published_one(shared):
    case = golden(shared, 'fol_rerank.pt', 'train_similarity')
    found = mutual_similarity(case['anchor'], case['positive'], min_similarity=0.7)
    assert_close(found, case['sim'], 1e-6)


def test_global_triplet_by_hand():
    query, positive = torch.zeros(2, 2), torch.tensor([[3.0, 4], [0, 1]])
    negative = torch.tensor([[0.0, 1], [0, 5]])
    loss = global_triplet_loss(query, positive, negative, margin=0.5)
    assert_close(loss, torch.tensor(5 - 1 + 0.5), 1e-4)


# Both sides choose each other at (0, 1) with 1 and at (1, 0) with 0.6; the third row is chosen by
# nobody.
QUERY = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.8, 0, -0.6]]])
MATCH = torch.tensor([[[0, 0.6, 0.8], [1.0, 0, 0]]])


def test_similarity_by_hand():
    assert_close(mutual_similarity(QUERY, MATCH), torch.tensor([0.8]), 1e-6)
    assert_close(mutual_similarity(QUERY, MATCH, 0.7), torch.tensor([1.0]), 1e-6)
    assert_close(mutual_similarity(QUERY, MATCH, 0.5), torch.tensor([0.8]), 1e-6)


def test_similarity_takes_sequences_of_different_lengths():
    queries, matches = [unit(5, 4), unit(3, 4, seed=1)], [unit(2, 4, seed=2), unit(6, 4, seed=3)]
    found = mutual_similarity(queries, matches)
    assert found.shape == (2,)
    for number in range(2):
        alone = mutual_similarity(queries[number][None], matches[number][None])
        assert_close(found[number:number + 1], alone, 0)


@pytest.mark.parametrize(('rows', 'threshold'), [(0, None), (6, 1.5)])
def test_similarity_without_a_match_is_zero_and_without_gradient(rows, threshold):
    query = unit(2, rows, 4).requires_grad_()
    found = mutual_similarity(query, unit(2, 5, 4, seed=1), threshold)
    found.sum().backward()
    assert found.tolist() == [0, 0]
    assert not query.grad.any()


def test_similarity_of_a_single_match_is_its_own():
    query, match = QUERY[:, :1], torch.tensor([[[0.0, 0, 1], [0.6, 0.8, 0]]])
    assert_close(mutual_similarity(query, match), torch.tensor([0.6]), 1e-6)


def test_local_triplet_adds_up_what_is_the_wrong_way_round():
    right, wrong = MATCH, torch.tensor([[[0.0, 0, 1]]])  # its only match: row 0, similarity 0
    queries = torch.cat([QUERY, QUERY, QUERY])
    positive, negative = [right[0], wrong[0], wrong[0]], [wrong[0], right[0], right[0]]
    assert_close(local_triplet_loss(queries, positive, negative), torch.tensor(1.6), 1e-6)


def test_local_triplet_gradient():
    images = [unit(2, 7, 5, seed=seed, dtype=torch.float64).requires_grad_() for seed in range(3)]
    assert torch.autograd.gradcheck(lambda *rows: local_triplet_loss(*rows), images)
    assert torch.autograd.gradcheck(
        lambda *rows: mutual_similarity(*rows, min_similarity=0.3), images[:2])


def test_no_matrix_of_all_pairs_waits_for_the_backward_pass():
    rows, sizes = 300, []
    images = [unit(1, rows, 8, seed=seed).requires_grad_() for seed in range(3)]

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        local_triplet_loss(*images)
    assert 0 < max(sizes) <= rows * 8


def test_terms_of_selavpr_are_means_over_the_triplets():
    images = [Descriptors(unit(4, 6, seed=seed), unit(4, 9, 5, seed=9 + seed))
              for seed in range(3)]
    terms = selavpr_terms(*images)
    overall = [one.global_descriptor for one in images]
    local = [one.local_features for one in images]
    assert_close(terms['global'], global_triplet_loss(*overall) / 4, 0)
    assert_close(terms['local'], local_triplet_loss(*local) / 4, 0)


# ---- batches of places --------------------------------------------------------------------------


def test_multi_similarity_by_hand():
    """The formula and its choice of hard pairs, row by row."""
    rows = torch.tensor([[1.0, 0], [0.6, 0.8], [0.8, 0.6], [0, 1]])
    places = torch.tensor([0, 0, 1, 1])
    cosines = rows @ rows.T
    expected = 0.0
    for row in range(4):
        positive = cosines[row][(places == places[row]) & (torch.arange(4) != row)]
        negative = cosines[row][places != places[row]]
        hard_positive = positive[positive < negative.max() + 0.1]
        hard_negative = negative[negative > positive.min() - 0.1]
        expected += torch.log(1 + torch.exp(-hard_positive).sum()).item()
        expected += torch.log(1 + torch.exp(50 * hard_negative).sum()).item() / 50
    assert math.isclose(multi_similarity_loss(rows, places).item(), expected / 4, rel_tol=1e-5)


def test_multi_similarity_of_easy_places_is_zero():
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert multi_similarity_loss(rows, torch.tensor([4, 4, 7, 7])) == 0


@pytest.mark.parametrize('places', [[5, 5, 5], [1, 2, 3]])
def test_multi_similarity_without_pairs_is_zero_and_has_a_gradient(places):
    """All images show one place, or every one its own."""
    rows = unit(3, 8).requires_grad_()
    loss = multi_similarity_loss(rows, torch.tensor(places))
    loss.backward()
    assert loss == 0
    assert not rows.grad.any()


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pytorch_metric_learning', None)
    with pytest.raises(SettingError, match=r"'selavpr_ros\[train\]'"):
        multi_similarity_loss(unit(4, 8), torch.tensor([0, 0, 1, 1]))
