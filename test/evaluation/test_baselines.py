from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from selavpr_ros.errors import CheckpointError, SettingError
from selavpr_ros.evaluation.baselines import (
    ALL_MATCHED,
    Thumbnail,
    count_orb_matches,
    describe_orb,
    evaluate_orb,
    load_untrained,
)
from selavpr_ros.evaluation.recall import evaluate
from selavpr_ros.evaluation.truth import EvaluationSet, read_pairs
from selavpr_ros.images.preprocess import preprocess
from selavpr_ros.models import load_model
from selavpr_ros.recordings.ground_truth import SamePlace


def texture(place: int, shift: int = 0, gain: float = 1.0) -> np.ndarray:
    """(120, 160, 3) uint8: blocks that the place decides, moved, in another light."""
    blocks = np.random.default_rng(place).integers(40, 200, (15, 20), dtype=np.uint8)
    grey = np.roll(cv2.resize(blocks, (160, 120), interpolation=cv2.INTER_NEAREST), shift, axis=1)
    return np.repeat((gain * grey).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture(scope='module')
def places() -> EvaluationSet:
    database = np.stack([texture(place) for place in range(4)])
    queries = np.stack([texture(place, shift=3, gain=0.8) for place in (2, 0)])
    return EvaluationSet('places', SamePlace(is_marked=True), database, queries, [[2], [0]])


# ---- thumbnail ----------------------------------------------------------------------------------


def test_shape_and_length_of_a_thumbnail():
    model = Thumbnail()
    descriptors = model(torch.randn(2, 3, *model.image_size))
    assert descriptors.global_descriptor.shape == (2, 24 * 32)
    torch.testing.assert_close(descriptors.global_descriptor.norm(dim=1), torch.ones(2))
    assert descriptors.local_features is None
    assert model.model_id.startswith('thumbnail/')


def test_a_thumbnail_does_not_mind_the_light():
    model = Thumbnail()
    bright, dark, other = (
        model(preprocess(image, model.image_size, model.resize)[None]).global_descriptor[0]
        for image in (texture(0), texture(0, gain=0.5), texture(1)))
    assert bright @ dark > 0.99
    assert bright @ other < 0.5


def test_a_thumbnail_of_nothing_is_finite():
    model = Thumbnail()
    grey = preprocess(np.full((48, 64, 3), 77, np.uint8), model.image_size, model.resize)
    assert model(grey[None]).global_descriptor.isfinite().all()


def test_thumbnails_find_places(places):
    assert evaluate(Thumbnail(), places).recall_at(1) == 1.0


def test_thumbnails_have_their_figure_in_the_corridor(shared):
    loop = shared / 'data/rtabmap_loop'
    asked = read_pairs(loop / 'images', loop / 'loops.csv')
    assert round(evaluate(Thumbnail(), asked).recall_at(1), 3) == 0.318


# ---- untrained ----------------------------------------------------------------------------------


def test_the_embedded_network_without_training():
    trained, untrained = load_model('embedded'), load_untrained(seed=3)
    assert type(untrained) is type(trained)
    assert (untrained.image_size, untrained.resize) == (trained.image_size, trained.resize)
    assert untrained.model_id.startswith('untrained3/')
    shapes, others = ({name: tensor.shape for name, tensor in model.state_dict().items()}
                      for model in (trained, untrained))
    assert shapes == others
    assert not untrained.training


def test_the_seed_decides_and_disturbs_nobody():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    same, again, other = (load_untrained(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert same.model_id == again.model_id
    assert same.fingerprint != other.fingerprint


def test_another_size_for_the_untrained():
    assert load_untrained(image_size=(112, 112)).image_size == (112, 112)
    with pytest.raises(SettingError, match='multiples of 14'):
        load_untrained(image_size=(100, 100))


def test_nothing_to_untrain():
    with pytest.raises(CheckpointError, match='no such file'):
        load_untrained('none.pth')
    with pytest.raises(CheckpointError, match="'hog' has no weights"):
        load_untrained('hog')


# ---- ORB ----------------------------------------------------------------------------------------


def test_shapes_of_orb():
    rows, nothing = describe_orb([texture(0), np.zeros((120, 160, 3), np.uint8)])
    assert rows.dtype == np.uint8
    assert rows.shape[1:] == (32,)
    assert len(rows) > 50
    assert nothing.shape == (0, 32)


def test_matches_that_are_clearly_the_best():
    match = np.zeros((3, 32), np.uint8)
    match[1], match[2] = 255, 15
    close, between = match[1].copy(), np.full(32, 51, np.uint8)
    close[0] = 254  # 1 bit from the second, 127 from the third
    assert count_orb_matches(np.stack([close, between]), match) == 1
    assert count_orb_matches(match, match) == 3


@pytest.mark.parametrize(('query', 'match'), [(0, 5), (5, 0), (5, 1), (0, 0)])
def test_nothing_to_match(query, match):
    rows = np.random.default_rng(0).integers(0, 256, (5, 32), dtype=np.uint8)
    assert count_orb_matches(rows[:query], rows[:match]) == 0


def test_orb_finds_places(places):
    evaluation = evaluate_orb(places)
    assert list(evaluation.rankings) == [ALL_MATCHED]
    assert evaluation.recall_at(1, ALL_MATCHED) == 1.0
    best, *others = evaluation.rankings[ALL_MATCHED][0].scores
    assert best > 2 * max(others)
    assert len(others) == 3


def test_orb_asks_only_what_it_may():
    images = np.stack([texture(place, shift) for shift in (0, 2) for place in range(3)])
    excluded = [range(max(0, q - 2), 6) for q in range(6)]
    asked = EvaluationSet('loop', SamePlace(is_marked=True),
                          images, images, [[], [], [], [0], [1], [2]], excluded)
    evaluation = evaluate_orb(asked, top_k=2)
    assert [r.database for r in evaluation.rankings[ALL_MATCHED]][0] == (0,)
    assert evaluation.recall_at(1, ALL_MATCHED) == 1.0
