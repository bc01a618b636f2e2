"""What the batches are made of, and what the losses move."""

import math
from dataclasses import replace

import pytest
import torch
from places import along, make_places, walk
from tiny_checkpoints import IMAGE_SIZES, make
from torch.nn import functional

from selavpr_ros.errors import SettingError
from selavpr_ros.images.preprocess import denormalise
from selavpr_ros.training import methods
from selavpr_ros.training.fol_losses import FOL_WEIGHTS
from selavpr_ros.training.losses import selavpr_terms
from selavpr_ros.training.methods import (
    METHODS,
    MultiSimilarity,
    Triplets,
    Views,
    corresponding_features,
    in_batches,
)
from selavpr_ros.training.recipe import TERMS, Recipe
from selavpr_ros.training.start import freeze
from selavpr_ros.training.views import pixel_grid, random_homographies

SIDE = 56


def trained(family='selavpr', **changes):
    """A tiny system in training, adapters and heads with gradients."""
    model = make(family, **changes).train()
    model.image_size = IMAGE_SIZES[family] if family in ('cricavpr', 'fol') else (SIDE, SIDE)
    if family == 'salad':
        model.image_size = (112, 112)
    freeze(model)
    return model


def noise(places, seed=0):
    """Images (N, 3, H, W) in place of those of the places."""
    torch.manual_seed(seed)
    return torch.randn(len(places), 3, *places.size)


def backward(method, images, index):
    terms = method(images, index)
    assert all(term.isfinite() and term.dtype == torch.float32 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    return terms


def check_gradients(model):
    """Frozen weights have none; some of what is trained has one."""
    moved = [name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()]
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad or parameter.grad is None, name
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
    return moved


def seeded(method, seed=0, count=3):
    torch.manual_seed(seed)
    return method.draw(count)


def test_every_method_of_a_recipe_is_there():
    assert METHODS.keys() == TERMS.keys()


def test_groups_fill_batches_and_begin_anew():
    groups = [[0, 1], [2, 3], [4, 5]]
    assert in_batches(groups, 2, 3) == [[0, 1, 2, 3], [4, 5, 0, 1], [2, 3, 4, 5]]


@pytest.mark.parametrize('method', METHODS.values())
def test_a_training_without_images_is_refused(method):
    with pytest.raises(SettingError, match='no images to train on'):
        method(trained(), make_places(), Recipe())


# ---- triplets -----------------------------------------------------------------------------------

# By hand: image 0 has positives 5 and 6 on another lap; 1 is its neighbour; 2 at 20 m is neither;
# 3, 4 and 7 are negatives.
LAPS_M = [0, 4, 20, 100, 200, 1, 3, 300]
# Cosines to image 0, which lies along the first axis.
LIKENESS = [1.0, 0.95, 0.99, 0.2, 0.8, 0.3, 0.5, 0.7]


def mined_by_hand(monkeypatch, **changes):
    """A Triplets whose descriptors are known."""
    rows = torch.tensor([[math.cos(a), math.sin(a)] for a in map(math.acos, LIKENESS)])
    monkeypatch.setattr(methods, 'describe', lambda model, images, workers: (
        rows[torch.tensor(images.indices)], []))
    places = make_places(along(LAPS_M), other_beyond=2)
    return Triplets(trained(), places, Recipe(**{'pool': 8, 'batch': 8, **changes}))


def test_the_best_positive_and_the_hardest_negatives_are_mined(monkeypatch):
    batch, = seeded(mined_by_hand(monkeypatch), count=1)
    found = {batch[i]: batch[i + 1: i + 4] for i in range(0, len(batch), 4)}
    assert found[0] == [6, 4, 7]
    assert 2 not in found  # it has no positive
    for query, (positive, *negatives) in found.items():
        assert abs(LAPS_M[query] - LAPS_M[positive]) <= 10
        assert all(abs(LAPS_M[query] - LAPS_M[n]) > 25 for n in negatives)


def test_negatives_come_from_the_pool_alone(monkeypatch):
    method = mined_by_hand(monkeypatch, pool=6, negatives=1)
    for seed in range(5):
        torch.manual_seed(seed)
        torch.randperm(8)
        pool = set(torch.randperm(8)[:6].tolist())
        batch, = seeded(method, seed, count=1)
        used = set(batch[2::3])
        assert used <= pool


def test_every_image_is_a_query_before_one_is_again(monkeypatch):
    torch.manual_seed(0)
    queries = mined_by_hand(monkeypatch)._queries(20)
    assert sorted(queries[:8].tolist()) == sorted(queries[8:16].tolist()) == list(range(8))
    assert len(queries) == 20


def test_triplets_are_a_function_of_the_seed_and_the_network_is_left_in_training():
    places = make_places(along(LAPS_M), size=(SIDE, SIDE), other_beyond=2)
    method = Triplets(trained(), places, Recipe(pool=8, batch=3))
    assert seeded(method) == seeded(method) != seeded(method, seed=1)
    assert [len(batch) for batch in seeded(method)] == [12, 12, 12]
    assert method.model.training


def test_a_site_without_places_apart_says_what_to_do():
    places = make_places(along([0, 1, 2]), size=(SIDE, SIDE))
    with pytest.raises(SettingError, match=r'none of 4 images has both .* \(within 10 m\) and 2 '
                                           r'of other places \(beyond 25 m\)'):
        seeded(Triplets(trained(), places, Recipe()), count=1)


@pytest.mark.parametrize('family', ['fol', 'salad', 'cricavpr'])
def test_triplets_need_a_grid_of_local_features(family):
    with pytest.raises(SettingError, match=f'which {family} does not have: take multi_similarity'):
        Triplets(trained(family), make_places(walk(2)), Recipe())


def test_triplet_losses_are_those_of_rows_put_together_by_hand():
    """Two queries; each triplet has its query, its positive and one of its negatives."""
    places = make_places(walk(8), size=(SIDE, SIDE))
    model, images = trained(), noise(places)
    terms = Triplets(model, places, Recipe(terms={'local': 0.5}))(images, torch.arange(8))
    queries, positives, negatives = [0, 0, 4, 4], [1, 1, 5, 5], [2, 3, 6, 7]
    expected = selavpr_terms(*(model(images[which]) for which in (queries, positives, negatives)))
    torch.testing.assert_close(terms['global'], expected['global'])
    torch.testing.assert_close(terms['local'], 0.5 * expected['local'])


def test_triplets_move_adapters_and_heads_alone():
    places = make_places(walk(8), size=(SIDE, SIDE))
    method = Triplets(trained(), places, Recipe())
    terms = backward(method, noise(places), torch.arange(8))
    moved = check_gradients(method.model)
    assert terms.keys() == {'global', 'local'}
    assert {name.split('.')[0] for name in moved} >= {'backbone', 'aggregation'}
    assert all('.adapter.' in name for name in moved if name.startswith('backbone.'))


# ---- places -------------------------------------------------------------------------------------


def two_laps(**rules):
    xs = [float(x) for x in range(0, 300, 4)]
    return make_places(along([*xs, *xs]), **rules)


def grouped(batch, size=4):
    return torch.tensor(batch).unflatten(0, (-1, size))


def test_images_of_a_batch_share_a_number_only_within_ten_metres_and_differ_beyond_25():
    places = two_laps()
    method = MultiSimilarity(trained(), places, Recipe(method='multi_similarity', batch=6))
    for batch in seeded(method, count=20):
        groups = grouped(batch)
        assert len(groups) == 6
        metres = (places.poses[batch, 0][:, None] - places.poses[batch, 0]).abs()
        number = torch.arange(6).repeat_interleave(4)
        together = number[:, None] == number
        assert metres[together].max() <= 10
        assert metres[~together].min() > 25
        assert all(len(set(group.tolist())) > 1 for group in groups)


def test_the_labels_of_the_loss_are_those_of_the_drawn_places(monkeypatch):
    given = []
    monkeypatch.setattr(methods, 'multi_similarity_loss', lambda rows, labels: (
        given.append(labels), rows.sum())[1])
    method = MultiSimilarity(trained(), two_laps(), Recipe(method='multi_similarity',
                                                           images_a_place=3))
    method(torch.zeros(6, 3, SIDE, SIDE), torch.arange(6))
    assert given[0].tolist() == [0, 0, 0, 1, 1, 1]


def test_a_small_site_has_smaller_batches():
    method = MultiSimilarity(trained(), make_places(along([0, 5, 40, 45, 80, 85])),
                             Recipe(method='multi_similarity', batch=9, images_a_place=2))
    for batch in seeded(method):
        assert sorted(sorted(group) for group in grouped(batch, 2).tolist()) == [
            [0, 1], [2, 3], [4, 5]]


def test_too_few_images_of_a_place_are_taken_again():
    method = MultiSimilarity(trained(), make_places(walk(2, 'place'), walk(1, 'mixed', 'b')),
                             Recipe(method='multi_similarity', batch=2))
    batch, = seeded(method, count=1)
    groups = grouped(batch)
    assert {tuple(sorted(group.tolist())) for group in groups} == {(0, 0, 1, 1), (2, 2, 2, 2)}


def test_places_are_a_function_of_the_seed():
    method = MultiSimilarity(trained(), two_laps(), Recipe(method='multi_similarity'))
    assert seeded(method) == seeded(method) != seeded(method, seed=1)


def test_one_place_alone_says_what_to_do():
    method = MultiSimilarity(trained(), make_places(walk(5, 'place')),
                             Recipe(method='multi_similarity'))
    with pytest.raises(SettingError, match='5 images show no two places that surely differ'):
        method.draw(2)


@pytest.mark.parametrize(('family', 'trains'), [
    ('selavpr', {'backbone', 'aggregation'}), ('cricavpr', {'backbone', 'encoder'}),
    ('salad', {'backbone', 'aggregator'})])
def test_multi_similarity_moves_what_the_family_trains(family, trains):
    model = trained(family)
    places = make_places(walk(4, 'place'), walk(4, 'place', 'b'), size=model.image_size)
    method = MultiSimilarity(model, places, Recipe(method='multi_similarity', images_a_place=2))
    terms = backward(method, noise(places)[:4], torch.tensor([0, 1, 4, 5]))
    assert terms.keys() == {'global'}
    assert {name.split('.')[0] for name in check_gradients(model)} >= trains


def test_cricavpr_learns_across_the_images_of_a_batch():
    model = trained('cricavpr')
    places = make_places(walk(4, 'place'), size=model.image_size)
    seen = []
    model.encoder.register_forward_hook(lambda encoder, given, output: seen.append(output.shape))
    recipe = Recipe(method='multi_similarity', images_a_place=2)
    MultiSimilarity(model, places, recipe)(noise(places), torch.arange(4))
    assert seen == [(4, 14, 64)]  # a sequence of four images


def test_fol_has_five_losses_with_their_published_weights(monkeypatch):
    model = trained('fol')
    places = make_places(walk(2, 'place'), walk(2, 'place', 'b'), size=model.image_size)
    recipe = Recipe(method='multi_similarity', images_a_place=2, terms={'contrast': 0.25})
    method, images = MultiSimilarity(model, places, recipe), noise(places)
    terms = backward(method, images, torch.arange(4))
    assert terms.keys() == FOL_WEIGHTS.keys() == set(TERMS['multi_similarity'])
    assert {name.split('.')[0] for name in check_gradients(model)} >= {'backbone', 'aggregator'}
    monkeypatch.setattr(methods, 'fol_terms', lambda outputs, labels: dict.fromkeys(
        FOL_WEIGHTS, torch.tensor(1.0)))
    ones = {name: term.item() for name, term in method(images, torch.arange(4)).items()}
    assert ones == pytest.approx({**FOL_WEIGHTS, 'contrast': 0.25})


# ---- views --------------------------------------------------------------------------------------


def source_maps(homographies, side, grid):
    """Local features of views that are where in the source image they lie, as unit vectors."""
    at = pixel_grid(grid) * grid / (grid - 1) * (1 - 14 / side)
    mapped = functional.pad(at.expand(len(homographies), -1, -1), (0, 1), value=1.0)
    rows = functional.normalize(mapped @ homographies.mT, dim=-1)
    return rows.mT.unflatten(2, (grid, grid))


def test_counterparts_are_taken_from_the_same_spot_of_the_source():
    torch.manual_seed(0)
    homographies = random_homographies(6, 1.0)
    maps = source_maps(homographies, 112, 29)
    query, match, alike = corresponding_features(maps, homographies, 64, 0.1)
    assert 60 < len(query) <= 3 * 64
    assert query.shape == match.shape == (len(query), 3)
    torch.testing.assert_close(query.norm(dim=1), torch.ones(len(query)))
    torch.testing.assert_close(query, match, atol=3e-3, rtol=0)
    assert not torch.allclose(query, match.roll(1, 0), atol=0.1)
    assert alike.diagonal().all()
    assert torch.equal(alike, alike.T)


def test_alike_are_near_points_of_one_image():
    """Identity views, so that the features tell where they lie."""
    torch.manual_seed(1)
    homographies = random_homographies(4, 0.0)
    grid, side = 29, 112
    at = pixel_grid(grid) * grid / (grid - 1) * (1 - 14 / side)
    flat = functional.pad(at, (0, 1), value=1.0).mT.unflatten(2, (grid, grid))
    query, _, alike = corresponding_features(flat.expand(4, -1, -1, -1), homographies, 40, 0.3)
    assert len(query) == 80
    points = query[:, :2] / query[:, 2:]
    near = torch.cdist(points, points) < 0.3
    near[:40, 40:] = near[40:, :40] = False  # of two images
    assert (near != alike).float().mean() < 0.01  # rounding at the limit
    assert near.sum() > 80


def test_no_image_with_itself_costs_nothing():
    query, match, alike = corresponding_features(
        torch.zeros(0, 8, 13, 13, requires_grad=True), torch.zeros(0, 3, 3), 16, 0.1)
    assert query.shape == match.shape == (0, 8)
    assert alike.shape == (0, 0)


@pytest.fixture
def views():
    places = make_places(walk(3), walk(1, 'mixed', 'b'), walk(3, 'place', 'c'), size=(70, 70))
    return Views(trained(), places, Recipe(method='views', batch=3, points=32))


def test_views_pair_images_with_themselves_or_another_of_their_place(views):
    batches = seeded(views, count=100)
    pairs = {(a, b) for batch in batches for a, b in zip(batch[:3], batch[3:], strict=True)}
    assert pairs == {(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (0, 1), (1, 0),
                     (1, 2), (2, 1), (4, 5), (5, 4), (4, 6), (6, 4), (5, 6), (6, 5)}
    own = sum(a == b for batch in batches for a, b in zip(batch[:3], batch[3:], strict=True))
    assert 0.5 < own / 300 < 0.67  # one in seven images has no other
    assert batches == seeded(views, count=100) != seeded(views, seed=1, count=100)


def test_views_have_finite_losses_and_follow_the_seed(views):
    images, index = noise(views.places)[:6], torch.tensor([0, 3, 4, 0, 3, 5])
    torch.manual_seed(1)
    terms = backward(views, images, index)
    assert terms.keys() == {'views', 'spots'}
    assert 'local_head.upconv1.weight' in check_gradients(views.model)
    torch.manual_seed(1)
    again = views(images, index)
    assert all(torch.equal(terms[name], again[name]) for name in terms)
    assert views(images, index)['spots'] != terms['spots']


def test_a_batch_of_other_images_only_has_no_corresponding_spots(views):
    terms = backward(views, noise(views.places)[:4], torch.tensor([0, 4, 1, 5]))
    assert terms['spots'] == 0
    assert terms['views'] > 0


def test_a_term_can_be_left_out_or_weighed(views):
    images, index = noise(views.places)[:6], torch.tensor([0, 3, 4, 0, 3, 5])
    found = []
    for weights in ({}, {'views': 0.0, 'spots': 3.0}):
        views.recipe = replace(views.recipe, terms=weights)
        torch.manual_seed(1)
        found.append(views(images, index))
    assert found[1].keys() == {'spots'}
    torch.testing.assert_close(found[1]['spots'], 3 * found[0]['spots'])


def test_views_need_selavpr_and_square_images():
    places = make_places(walk(2))
    with pytest.raises(SettingError, match='method views trains selavpr, not salad'):
        Views(trained('salad'), places, Recipe(method='views'))
    model = trained()
    model.image_size = (56, 70)
    with pytest.raises(SettingError, match=r'square images, image_size is \[56, 70\]'):
        Views(model, places, Recipe(method='views'))


class NoTeacher(torch.nn.Module):
    """Says of every view the same; remembers what it saw."""

    def forward(self, images):
        self.seen = images
        side = images.shape[-1] // 14
        return tuple(functional.normalize(torch.ones(len(images), *shape), dim=-1)
                     for shape in ((side, side, 64), (64,), ((4 * side - 3) ** 2, 16)))


def test_a_teacher_sees_the_views_in_their_own_light_and_is_imitated(views):
    views.teacher = NoTeacher()
    images = noise(views.places)[:1].clamp(-1, 1).repeat(2, 1, 1, 1)
    terms = backward(views, images, torch.tensor([0, 0]))
    assert terms.keys() == {'tokens', 'descriptor', 'local', 'views', 'spots'}
    assert views.teacher.seen.shape == (2, 3, SIDE, SIDE)
    low, high = denormalise(images).amin(dim=(2, 3)), denormalise(images).amax(dim=(2, 3))
    seen = denormalise(views.teacher.seen)
    assert (seen.amin(dim=(2, 3)) >= low - 1e-2).all()
    assert (seen.amax(dim=(2, 3)) <= high + 1e-2).all()


# ---- precision and augmentation -----------------------------------------------------------------


@pytest.mark.parametrize('family', ['selavpr', 'cricavpr', 'salad', 'fol'])
def test_the_network_computes_in_the_precision_of_the_recipe_and_the_losses_in_float32(
    family, monkeypatch
):
    model = trained(family)
    places = make_places(walk(2, 'place'), walk(2, 'place', 'b'), size=model.image_size)
    computed, used = [], []
    model.backbone.blocks[0].mlp.register_forward_hook(
        lambda block, given, output: computed.append(output.dtype))
    for name in ('multi_similarity_loss', 'fol_terms'):
        original = getattr(methods, name)
        monkeypatch.setattr(methods, name, lambda *given, original=original: (
            used.append(torch.is_autocast_enabled('cpu')), original(*given))[1])
    for precision in ('fp32', 'bf16'):
        recipe = Recipe(method='multi_similarity', images_a_place=2, precision=precision)
        backward(MultiSimilarity(model, places, recipe), noise(places), torch.arange(4))
    assert computed == [torch.float32, torch.bfloat16]
    assert used == [False, False]
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize('method', [Triplets, Views])
def test_triplets_and_views_follow_the_precision_too(method):
    model, names = trained(), {Triplets: 'triplets', Views: 'views'}
    computed = []
    model.backbone.blocks[0].mlp.register_forward_hook(
        lambda block, given, output: computed.append(output.dtype))
    places = make_places(along([0, 1, 100, 200, 300]), size=(SIDE, SIDE))
    made = method(model, places, Recipe(method=names[method], precision='bf16', points=8))
    backward(made, noise(places)[:4], torch.tensor([0, 1, 0, 1]))
    made.draw(1)
    assert set(computed) == {torch.bfloat16}


@pytest.mark.parametrize('method', METHODS)
def test_images_are_augmented_as_the_recipe_says(method, monkeypatch):
    changed = []
    monkeypatch.setattr(methods, 'randaugment', lambda images: (
        changed.append((len(images), torch.is_autocast_enabled('cpu'))), images)[1])
    places = make_places(walk(4), size=(SIDE, SIDE))
    for augment in ('none', 'randaugment'):
        recipe = Recipe(method=method, augment=augment, images_a_place=2, points=8,
                        precision='bf16')
        METHODS[method](trained(), places, recipe)(noise(places), torch.arange(4))
    assert changed == [(4, False)]


def test_mining_sees_images_as_they_are(monkeypatch):
    monkeypatch.setattr(methods, 'randaugment', lambda images: pytest.fail('augmented'))
    places = make_places(along(LAPS_M), size=(SIDE, SIDE), other_beyond=2)
    recipe = Recipe(pool=8, augment='randaugment')
    assert Triplets(trained(), places, recipe).draw(1)
