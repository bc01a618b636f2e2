import math

import torch
from torch.nn import functional

from selavpr_ros.training.losses import (
    global_contrast_loss,
    imitation_loss,
    local_contrast_loss,
)


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
