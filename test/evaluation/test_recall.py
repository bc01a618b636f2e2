from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from selavpr_ros.errors import DescriptorError, ImageError, SettingError
from selavpr_ros.evaluation.description import describe
from selavpr_ros.evaluation.recall import (
    GLOBAL,
    RERANKED,
    Ranking,
    evaluate,
    evaluate_codecs,
    order_by_matches,
    recall,
    retrieve,
)
from selavpr_ros.evaluation.truth import EvaluationSet, read_pairs
from selavpr_ros.maps.local_codec import encode
from selavpr_ros.models import load_model
from selavpr_ros.recordings.ground_truth import SamePlace


@pytest.fixture
def half_right(told_image) -> EvaluationSet:
    """Two queries: of one the best is right, of the other only the second, with more matches."""
    database = np.stack([told_image(0, 0), told_image(30, 20), told_image(60, 40),
                         told_image(90, 60)])
    queries = np.stack([told_image(1, 1), told_image(40, 41), told_image(50, 0)])
    return EvaluationSet('half', SamePlace(is_marked=True), database, queries, [[0], [2], []])


# ---- describing ---------------------------------------------------------------------------------


def test_shapes_of_descriptions(told, told_image):
    described = describe(told(), [told_image(90, 3), told_image(0, 0), told_image(45, 1)])
    assert described.global_descriptors.shape == (3, 2)
    torch.testing.assert_close(described.global_descriptors[0], torch.tensor([0.0, 1.0]),
                               atol=1e-6, rtol=0)
    assert [rows.data.shape for rows in described.local_features] == [(8, 256)] * 3
    assert described.local_features[0].codec == 'float16'
    assert describe(told(), [told_image(0)], local=False).local_features is None
    assert describe(told(has_local=False), [told_image(0)]).local_features is None


@pytest.mark.parametrize(('codec', 'shape'), [('int8', (8, 256)), ('binary', (8, 32))])
def test_local_features_are_kept_as_a_map_keeps_them(told, told_image, codec, shape):
    kept, = describe(told(), [told_image(0, 3)], codec=codec).local_features
    assert (kept.codec, kept.dim, kept.data.shape) == (codec, 256, shape)
    assert kept.decode().argmax(dim=1).tolist() == list(range(3, 11))
    assert describe(told(), [told_image(0)], codec='none').local_features is None
    with pytest.raises(SettingError, match="'zip' is none of none, float16"):
        describe(told(), [told_image(0)], codec='zip')


def test_files_and_arrays_are_described_alike(told, told_image, tmp_path):
    image = told_image(20, 5)
    cv2.imwrite(str(tmp_path / 'a.png'), image[..., ::-1])
    from_file, from_array = (describe(told(), [i]) for i in (tmp_path / 'a.png', image))
    assert torch.equal(from_file.global_descriptors, from_array.global_descriptors)
    assert np.array_equal(from_file.local_features[0].data, from_array.local_features[0].data)


def test_what_is_no_image(told, told_image, tmp_path):
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(ImageError, match=r'text.png: 8 bytes that .* are no picture'):
        describe(told(), [tmp_path / 'text.png'])
    with pytest.raises(ImageError, match='none.png cannot be read: No such file'):
        describe(told(), [tmp_path / 'none.png'])
    with pytest.raises(ImageError, match='need an'):
        describe(told(), [told_image(0)[..., 0]])


def test_a_descriptor_that_is_not_finite(told, told_image):
    with pytest.raises(DescriptorError, match='the descriptor of an image is not finite'):
        describe(told(), [told_image(0, blue=255)])


# ---- ranking ------------------------------------------------------------------------------------


def test_the_most_similar_come_first_and_ties_stay_in_order():
    similarities = torch.tensor([0.5, 0.9, 0.5, 1.0, 0.5])
    found = retrieve(similarities, np.array([0, 1, 2, 4]), 3)
    assert found.database == (1, 0, 2)
    assert found.scores == pytest.approx((0.9, 0.5, 0.5))
    assert retrieve(similarities, np.array([3]), 20).database == (3,)
    assert retrieve(similarities, np.empty(0, np.int64), 20) == Ranking((), ())


def test_mutual_matches_put_images_in_order_and_ties_go_by_similarity(told):
    rows = torch.eye(8, 256)
    for codec in ('float16', 'int8', 'binary'):
        kept = [encode(some, codec) for some in (rows[:2], rows[:0], rows[1:3], rows)]
        found = order_by_matches(
            told(), kept, Ranking((2, 0, 1, 3), (0.9, 0.8, 0.7, 0.6)), rows)
        assert found == Ranking((3, 2, 0, 1), (8, 2, 2, 0))


# ---- recall -------------------------------------------------------------------------------------


def test_a_set_of_which_half_is_found_at_once(told, half_right):
    evaluation = evaluate(told(), half_right)
    assert evaluation.method.startswith('told/')
    found, reranked = evaluation.rankings[GLOBAL], evaluation.rankings[RERANKED]
    assert [ranking.database for ranking in found] == [(0, 1, 2, 3), (1, 2, 0, 3)]
    assert found[1].scores[0] == pytest.approx(np.cos(np.radians(10)))
    assert [ranking.database[0] for ranking in reranked] == [0, 2]
    assert [ranking.scores[0] for ranking in reranked] == [7, 7]
    assert evaluation.hit_ranks() == [0, 1]
    assert evaluation.recall_at(1) == 0.5
    assert evaluation.recall_at(2) == 1.0
    assert evaluation.recall_at(1, RERANKED) == 1.0
    assert evaluation.recalls() == {1: 0.5, 5: 1.0, 10: 1.0}


def test_queries_without_a_positive_count_only_when_asked(told, half_right):
    evaluation = evaluate(told(), half_right)
    assert evaluation.recall_at(2, of_all=True) == pytest.approx(2 / 3)
    assert evaluation.recalls(of_all=True)[1] == pytest.approx(1 / 3)


def test_only_the_best_are_listed(told, half_right):
    evaluation = evaluate(told(), half_right, top_k=1)
    assert evaluation.rankings[RERANKED][1].database == (1,)
    assert evaluation.hit_ranks(RERANKED) == [0, None]
    assert evaluation.recalls() == {1: 0.5}
    with pytest.raises(SettingError, match='recall@2 cannot be told from the best 1'):
        evaluation.recall_at(2)


def test_global_only(told, half_right):
    assert list(evaluate(told(), half_right, reranking=False).rankings) == [GLOBAL]
    assert list(evaluate(told(has_local=False), half_right).rankings) == [GLOBAL]
    assert recall(told(), half_right)[1] == 0.5
    assert recall(told(), half_right, reranking=True)[1] == 1.0


def test_every_codec_is_asked_and_images_are_described_once(told, half_right):
    model = told()
    codecs = ('none', 'float16', 'int8', 'binary')
    found = evaluate_codecs(model, half_right, codecs)
    assert model.described == 4 + 2
    assert tuple(found) == codecs
    assert list(found['none'].rankings) == [GLOBAL]
    for codec in codecs[1:]:
        alone = evaluate(told(), half_right, codec=codec)
        assert found[codec].rankings == alone.rankings
        assert alone.recall_at(1, RERANKED) == 1.0
    assert list(evaluate(told(), half_right, codec='none').rankings) == [GLOBAL]
    assert list(evaluate_codecs(told(has_local=False), half_right, ['int8'])['int8'].rankings) == [
        GLOBAL]


def test_features_without_a_negative_number_have_signs_too(told, half_right):
    """Signs are those of the rotated feature: without that, all of these would be equal."""
    class Graded(told):
        def forward(self, images):
            described = super().forward(images)
            return replace(described, local_features=normalize(
                described.local_features + 0.02, dim=2))

    found = evaluate_codecs(Graded(), half_right, ['float16', 'int8', 'binary'])
    firsts = {codec: [ranking.scores[0] for ranking in one.rankings[RERANKED]]
              for codec, one in found.items()}
    assert firsts == {codec: [7, 7] for codec in ('float16', 'int8', 'binary')}


def test_a_recording_is_described_once_and_asks_what_it_may(told, told_image):
    images = np.stack([told_image(degrees) for degrees in (10, 80, 11, 12)])
    excluded = [range(max(0, q - 1), 4) for q in range(4)]
    asked = EvaluationSet('loop', SamePlace(is_marked=True),
                          images, images, [[], [], [0], [0]], excluded)
    model = told()
    evaluation = evaluate(model, asked)
    assert model.described == 4
    assert [r.database for r in evaluation.rankings[GLOBAL]] == [(0,), (0, 1)]
    assert evaluation.recall_at(1) == 1.0
    assert evaluation.unanswerable == {}
    whole = evaluate(model, asked, all_queries=True)
    assert whole.rankings == evaluation.rankings
    assert whole.unanswerable[GLOBAL] == []  # the first two are compared with nothing


def test_queries_without_a_positive_are_asked_on_demand(told, half_right):
    model = told()
    evaluation = evaluate(model, half_right, all_queries=True)
    count = len(half_right.queries) - len(half_right.answerable)
    assert count > 0
    for way in (GLOBAL, RERANKED):
        assert len(evaluation.unanswerable[way]) == count


def test_queries_of_their_own_are_described_only_if_they_are_asked(told, half_right):
    model = told()
    evaluate(model, half_right)
    assert model.described == 4 + 2


def test_the_baseline_has_its_figures_in_the_corridor(shared):
    """Indices, exclusion, descriptors, matching and ties all at once: what the README says."""
    loop = shared / 'data/rtabmap_loop'
    evaluation = evaluate(load_model('hog'), read_pairs(loop / 'images', loop / 'loops.csv'))
    assert round(evaluation.recall_at(1), 3) == 0.659
    assert round(evaluation.recall_at(1, RERANKED), 3) == 0.932
