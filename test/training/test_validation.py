"""Recall on held-out places, for networks whose answers are known."""

import pytest
import torch
from places import Colours, along, make_places, walk

from selavpr_ros.models.base import Descriptors
from selavpr_ros.training import validation
from selavpr_ros.training.validation import Validation, score

PLACES = 30
LAP_M = [20.0 * n for n in range(PLACES)]


def palette(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3), generator=generator).tolist()


def two_laps(seed=0, second=None):
    """Two visits to places of one colour each; the second lap has `second`'s colours."""
    colours = palette(PLACES, seed)
    return make_places(along([*LAP_M, *LAP_M], colours=colours + (second or colours)))


class Blind(Colours):
    """Sees nothing: every call gives other descriptors."""

    def forward(self, images):
        rows = torch.nn.functional.normalize(torch.randn(len(images), 32), dim=1)
        return Descriptors(rows, torch.nn.functional.normalize(
            torch.randn(len(images), 9, 8), dim=-1))


class Confused(Colours):
    """Global descriptors tell the place, local features mislead, or the other way round."""

    def __init__(self, local):
        super().__init__()
        self.misled = 'local' if local else 'global'

    def forward(self, images):
        described = super().forward(images)
        rows = described.global_descriptor
        if self.misled == 'global':
            rows = torch.nn.functional.normalize(rows + 1.2 * torch.randn(rows.shape), dim=1)
            return Descriptors(rows, described.local_features)
        noise = torch.nn.functional.normalize(torch.randn(len(rows), 30, 8), dim=-1)
        return Descriptors(rows, noise)


def test_a_perfect_network_finds_everything():
    recall = Validation(two_laps())(Colours())
    assert recall == {'recall@1': 1.0, 'recall@5': 1.0, 'reranked@1': 1.0}


def test_a_blind_network_is_as_good_as_chance():
    torch.manual_seed(0)
    check = Validation(two_laps())
    runs = [check(Blind()) for _ in range(20)]
    mean = {name: sum(run[name] for run in runs) / 20 for name in runs[0]}
    # One positive among some 44 to 51 images that are not hidden.
    assert 0.005 < mean['recall@1'] < 0.05
    assert 0.06 < mean['recall@5'] < 0.17
    assert 0.005 < mean['reranked@1'] < 0.05


def test_re_ranking_is_by_local_features():
    torch.manual_seed(0)
    check = Validation(two_laps())
    misled = check(Confused(local=True))
    assert misled['recall@1'] == 1.0
    assert misled['reranked@1'] < 0.5
    assert check(Confused(local=False))['reranked@1'] <= 1.0


def test_without_local_features_there_is_nothing_to_re_rank():
    assert Validation(two_laps())(Colours(local=False)).keys() == {'recall@1', 'recall@5'}


def test_frames_around_the_query_are_hidden_when_there_is_another_visit():
    """The second lap looks different, so that only the frames around could answer."""
    greens = torch.linspace(40, 220, PLACES).int().tolist()
    colours = [(255, green, 0) for green in greens] + [(0, green, 255) for green in greens]
    xs = [x / 20 for x in LAP_M]
    places = make_places(along([*xs, *xs], colours=colours), other_beyond=2)
    check = Validation(places)
    assert check.revisited.all()
    # A metre a frame: all frames within ten metres are of the same pass.
    assert check.hidden[12].nonzero()[:, 0].tolist() == list(range(2, 23))
    assert check.hits[12].nonzero()[:, 0].tolist() == [PLACES + n for n in range(2, 23)]
    assert check(Colours()) == {'recall@1': 0.0, 'recall@5': 0.0, 'reranked@1': 0.0}


def test_a_place_that_is_seen_once_is_asked_for_with_a_changed_view():
    places = make_places(walk(40, colours=palette(40)))
    check = Validation(places)
    assert not check.revisited.any()
    assert not check.hidden.any()
    assert check.hits[20].nonzero()[:, 0].tolist() == [19, 20, 21]
    assert not torch.equal(check[20], places[20])
    assert torch.equal(check[20], check[20])
    assert 0.3 < check(Colours())['recall@1'] <= 1.0


def test_changed_views_keep_the_shape_whatever_it_is():
    places = make_places(walk(2, colours=palette(2)), size=(28, 56))
    assert Validation(places)[1].shape == (3, 28, 56)


def test_changed_views_leave_the_random_numbers_alone():
    check = Validation(make_places(walk(3)))
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    check[1]
    assert torch.equal(torch.rand(3), before)


def test_two_calls_give_the_same_figures_and_leave_the_network_as_it_was():
    colours = palette(PLACES)
    noisy = [[min(255, c + n % 3 * 40) for c in colour] for n, colour in enumerate(colours)]
    places = make_places(along([*LAP_M, *LAP_M], colours=colours + noisy),
                         walk(20, 'mixed', 'b', colours=palette(20, 1)))
    check, model = Validation(places), Colours().train()
    first = check(model)
    assert check(model) == first
    assert 0 < first['recall@1'] < 1
    assert model.training
    assert not any(model.states)


def test_many_images_are_asked_for_at_even_distances(monkeypatch):
    monkeypatch.setattr(validation, 'QUERIES', 10)
    check = Validation(make_places(walk(105)))
    assert check.queries.tolist() == list(range(0, 105, 10))
    assert len(check) == 11


class Detailed(Colours):
    """Local features that match best with the same image, then with those of like colour."""

    def forward(self, images):
        rows = super().forward(images).global_descriptor
        local = []
        for row in rows:
            like, own = (torch.Generator().manual_seed(n) for n in (
                int(row.argmax()), int(1e6 * row.abs().sum())))
            local.append(torch.randn(30, 8, generator=like)
                         + 0.5 * torch.randn(30, 8, generator=own))
        return Descriptors(rows, torch.nn.functional.normalize(torch.stack(local), dim=-1))


def test_hidden_frames_are_no_candidates_of_the_re_ranking():
    """So few images that the frames around the query are among the first ten."""
    colours = [(250, 0, 0), (240, 0, 9), (230, 9, 0), (0, 250, 0), (0, 0, 250), (245, 0, 10),
               (9, 240, 0), (0, 9, 240)]
    places = make_places(along([0, 1, 2, 100, 200, 3, 103, 203], colours=colours),
                         other_beyond=2)
    check = Validation(places)
    assert check.revisited.all()
    assert check.hidden[0].nonzero()[:, 0].tolist() == [0, 1, 2]
    assert check(Detailed())['reranked@1'] == 1.0


def test_the_score_is_the_mean_of_both_first_recalls():
    assert score({'recall@1': 0.5, 'recall@5': 0.9, 'reranked@1': 0.7}) == pytest.approx(0.6)
    assert score({'step': 3, 'recall@1': 0.5, 'recall@5': 0.9}) == 0.5
