"""GeM and optimal transport against plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models_support import assert_close
from torch import nn

from selavpr_ros.errors import ImageError
from selavpr_ros.models import aggregation
from selavpr_ros.models.aggregation import GeM, TransportAggregation, transport


def test_gem_of_two_tokens():
    # Unit tokens (0.6, 0.8) and (0, -1); what is negative counts as 1e-6.
    tokens = torch.tensor([[[3.0, 4.0], [0.0, -2.0]]])
    expected = torch.tensor([[(0.6 ** 3 / 2) ** (1 / 3), (0.8 ** 3 / 2) ** (1 / 3)]])
    assert_close(GeM()(tokens), expected, atol=1e-6)


def test_gem_learns_its_power():
    pool, tokens = GeM().requires_grad_(False), torch.tensor([[[3.0, 4.0], [4.0, 3.0]]])
    assert pool.p.tolist() == [3.0]
    pool.p.fill_(1)
    assert_close(pool(tokens), torch.tensor([[0.7, 0.7]]), atol=1e-6)
    pool.p.fill_(60)
    assert float(pool(tokens)[0, 0]) == pytest.approx(0.8 * 0.5 ** (1 / 60), abs=1e-5)


def test_gem_takes_a_grid_and_computes_in_float32():
    tokens = -torch.ones(2, 3, 5, 4)
    assert_close(GeM()(tokens), torch.full((2, 4), 1e-6), atol=1e-9)
    pooled = GeM().half()(tokens.half())  # 1e-6 cubed is 0 in float16
    assert pooled.dtype == torch.float32
    assert_close(pooled, torch.full((2, 4), 1e-6), atol=1e-9)


def _plain_transport(scores: np.ndarray, dustbin: np.ndarray, iterations: int) -> np.ndarray:
    """Sinkhorn's loop on probabilities, one image: (M, N), (N,) -> (M, N)."""
    clusters, patches = scores.shape
    kernel = np.exp(np.vstack([scores, dustbin]))
    rows = np.ones(clusters + 1)
    rows[-1] = patches - clusters
    scale = np.ones(patches)
    for _ in range(iterations):
        row_scale = np.array([rows[i] / sum(kernel[i] * scale) for i in range(clusters + 1)])
        scale = np.array([1 / sum(kernel[:, j] * row_scale) for j in range(patches)])
    return (row_scale[:, None] * kernel * scale)[:-1]


@pytest.fixture
def scores():
    return torch.from_numpy(3 * np.random.RandomState(0).standard_normal((2, 5, 30))).float()


@pytest.fixture
def dustbin():
    return torch.from_numpy(np.random.RandomState(1).standard_normal((2, 30))).float()


def test_transport_is_three_rounds_of_sinkhorn(scores, dustbin):
    found = transport(scores, dustbin)
    for image in range(2):
        plain = _plain_transport(scores[image].numpy(), dustbin[image].numpy(), iterations=3)
        assert_close(found[image], torch.from_numpy(plain).float(), atol=1e-6)
    assert aggregation.SINKHORN_ITERATIONS == 3


def test_transport_ends_in_the_masses_that_were_asked_for(scores, dustbin, monkeypatch):
    monkeypatch.setattr(aggregation, 'SINKHORN_ITERATIONS', 500)
    shares = transport(scores, dustbin)
    assert_close(shares.sum(dim=2), torch.ones(2, 5), atol=1e-4)  # one patch for each cluster
    assert (shares.sum(dim=1) < 1).all()  # each patch gives the rest of its mass to the dustbin
    assert_close(shares.sum(dim=(1, 2)), torch.full((2,), 5.0), atol=1e-4)


def test_a_number_added_to_a_cluster_changes_nothing(scores, dustbin):
    shifted = scores + torch.arange(5.0)[:, None]
    assert_close(transport(shifted, dustbin - 7), transport(scores, dustbin), atol=1e-6)


def test_a_patch_that_likes_the_dustbin_is_left_out(scores, dustbin):
    before = transport(scores, dustbin)[:, :, 4].sum(dim=1)
    dustbin[:, 4] += 12
    assert (transport(scores, dustbin)[:, :, 4].sum(dim=1) < 1e-2 * before).all()


def test_transport_in_low_precision_is_computed_in_float32(scores, dustbin):
    half = transport(scores.half(), dustbin.half())
    assert half.dtype == torch.float32
    assert_close(half, transport(scores.half().float(), dustbin.half().float()), atol=0)


def test_large_scores_do_not_overflow(dustbin):
    shares = transport(torch.full((2, 5, 30), 500.0), dustbin)
    assert torch.isfinite(shares).all()


@pytest.mark.parametrize('clusters', [30, 31])
def test_more_clusters_than_patches(clusters):
    with pytest.raises(ImageError, match=f'30 patches for {clusters} clusters.* has to be larger'):
        transport(torch.zeros(1, clusters, 30), torch.zeros(1, 30))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@torch.no_grad()
def test_descriptor_is_the_token_and_then_the_clusters_channel_by_channel():
    torch.manual_seed(0)
    head = TransportAggregation(width=6, hidden=7, clusters=4, cluster_dim=3, token_dim=5).eval()
    cls, patches = torch.randn(1, 6), torch.randn(1, 5, 2, 6)
    descriptor, shares = head(cls, patches, torch.ones(()))
    features = head.cluster_features(patches.permute(0, 3, 1, 2))[0].reshape(3, 10).numpy()
    scores = head.score(patches.permute(0, 3, 1, 2))[0].reshape(4, 10).double().numpy()
    plain = _plain_transport(scores, np.ones(10), iterations=3)
    assert_close(shares[0], torch.from_numpy(plain).float(), atol=1e-6)
    clusters = [_unit((features * plain[cluster]).sum(axis=1)) for cluster in range(4)]
    expected = _unit(np.concatenate([
        _unit(head.token_features(cls)[0].numpy()),
        [clusters[cluster][channel] for channel in range(3) for cluster in range(4)]]))
    assert_close(descriptor[0], torch.from_numpy(expected).float(), atol=1e-6)


def test_small_networks_are_the_published_ones():
    head = TransportAggregation(width=6, hidden=7, clusters=4, cluster_dim=3, token_dim=5)
    for network in (head.score, head.cluster_features):
        assert [type(layer) for layer in network] == [nn.Conv2d, nn.Dropout, nn.ReLU, nn.Conv2d]
        assert network[1].p == 0.3
    assert [type(layer) for layer in head.token_features] == [nn.Linear, nn.ReLU, nn.Linear]
