"""Gates from images whose similarity is known."""

import numpy as np
import pytest
import torch
from places import Colours, along, make_places, walk

from selavpr_ros.errors import SettingError
from selavpr_ros.models.base import Descriptors
from selavpr_ros.preprocess import denormalise
from selavpr_ros.training.operating_point import (
    find_neighbour,
    find_triple,
    local_scores,
    measure_operating_point,
)


class Brightness(Colours):
    """A unit vector whose angle is the brightness; three local features, the more alike the more
    of their angles are.
    """

    @property
    def max_local_features(self):
        return 4

    def forward(self, images):
        self.states.append(self.training)
        angle = denormalise(images).mean(dim=(1, 2, 3)) / 255 * np.pi / 2
        rows = torch.stack([angle.cos(), angle.sin()], dim=1)
        return Descriptors(rows, torch.stack([rows, -rows, rows.flip(1)], dim=1))


def brighter(*walks, **rules):
    """Walks of grey images, each frame a little brighter."""
    made = [walk(len(greys), group=str(n), colours=[(grey,) * 3 for grey in greys])
            for n, greys in enumerate(walks)]
    return make_places(*made, **{'other_beyond': 3, **rules})


def test_the_neighbour_and_the_most_similar_image_of_another_place_are_found():
    rows = torch.eye(24)
    rows[5, 0], rows[2, 0] = 0.3, 0.9  # 2 is too near to be another place
    assert find_triple(rows[:12, :12], brighter(range(12)), 0) == (0, 1, 5)
    rows[13, 0] = 0.2
    # Without poses a walk may come back to its places, so another walk is asked if there is one.
    assert find_triple(rows, brighter(range(12), range(12)), 0) == (0, 1, 13)


def test_the_neighbour_shows_the_same_place():
    places = brighter(range(12), range(12))
    assert find_neighbour(places, 11) == 10  # the last of its walk
    assert find_neighbour(places, 23) == 22  # the last of all
    assert find_neighbour(make_places(along([0, 12, 40, 42, 1])), 0) == 4
    assert find_neighbour(make_places(along([0, 12, 40, 42, 1])), 2) == 3
    assert find_neighbour(make_places(along([0, 12, 40])), 0) is None
    assert find_neighbour(make_places(walk(4, 'mixed')), 0) is None


def test_an_image_may_lack_a_neighbour_or_another_place():
    rows = torch.eye(4)
    assert find_triple(rows, brighter(range(4)), 0) is None
    assert find_triple(rows, make_places(walk(4, 'mixed')), 0) is None


def test_scores_are_shares_of_the_most_that_the_model_can_have():
    places = brighter([0, 3, 200])
    model = Brightness()
    scores = local_scores(model, places, [(0, 1, 2)])
    assert scores.shape == (1, 2)
    assert scores[0].tolist() == [3 / 4, 3 / 4]
    model.match_similarity = 0.99
    assert local_scores(model, places, [(0, 1, 2)])[0].tolist() == [3 / 4, 0]


def test_gates_come_with_their_provenance():
    greys = list(range(0, 120, 10)), list(range(130, 250, 10))
    model = Brightness().train()
    point = measure_operating_point(model, brighter(*greys), queries=24)
    # One frame is 10 / 255 of a right angle.
    assert point.min_similarity == pytest.approx(np.cos(10 / 255 * np.pi / 2), abs=2e-3)
    assert 0 < point.min_local_score <= 3 / 4
    assert point.provenance.startswith('24 images of held-out walks: 95% of their neighbours')
    assert model.training
    assert not any(model.states)


def test_queries_are_drawn_by_the_seed_until_there_are_enough():
    greys = [int(200 * np.sin(n / 9) ** 2) for n in range(60)]
    places, model = brighter(greys), Brightness()
    first = measure_operating_point(model, places, queries=7)
    assert first.provenance.startswith('7 images')
    assert measure_operating_point(model, places, queries=7) == first
    assert measure_operating_point(model, places, queries=7, seed=1) != first


def test_local_features_may_differ_in_number():
    class Some(Brightness):
        def forward(self, images):
            described = super().forward(images)
            dark = denormalise(images).mean(dim=(1, 2, 3)) < 60
            described.local_features[dark, 2] = 0
            return described

    point = measure_operating_point(Some(), brighter(range(0, 240, 10)))
    assert 0 <= point.min_local_score <= 3 / 4


def test_places_without_any_walk_say_what_to_do():
    with pytest.raises(SettingError, match='none of 5 held-out images .*: hold out a walk'):
        measure_operating_point(Brightness(), make_places(walk(5, 'mixed')))
