import numpy as np
import torch

from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.training.data import Places, Walk
from selavpr_ros.training.operating_point import compare, measure_operating_point


class Thumbnail(VprModel):
    """Describes an image by its brightness as an angle, and so do its two local features."""

    image_size = (14, 14)

    def forward(self, images):
        angle = images.mean(dim=(1, 2, 3))
        rows = torch.stack([angle.cos(), angle.sin()], dim=1)
        return Descriptors(rows, torch.stack([rows, -rows], dim=1))


def make_places():
    """Two walks whose frames get brighter slowly."""
    brightness = np.concatenate([np.arange(0, 60, 5), np.arange(150, 210, 5)])
    images = np.broadcast_to(brightness[:, None, None, None], (24, 3, 32, 32))
    walks = [Walk(('x',) * 12, 'walk', name) for name in 'ab']
    return Places(walks, images.astype(np.uint8), same_within=1, other_beyond=3)


def test_neighbour_and_most_similar_other_place_are_compared():
    rows = torch.eye(24)
    rows[0] = rows[1] = torch.eye(24)[2]  # one place
    rows[5, :3] = torch.tensor([0, 0.0, 0.1])  # the most similar of the other places
    pair = compare(Descriptors(rows, rows[:, None]), make_places(), 0)
    np.testing.assert_allclose(pair, [[1.0, 1.0], [0.1, 1.0]])


def test_the_last_frame_of_a_walk_has_no_neighbour():
    rows = torch.eye(24)
    descriptors = Descriptors(rows, rows[:, None])
    assert compare(descriptors, make_places(), 11) is None
    assert compare(descriptors, make_places(), 23) is None


def test_gates_come_with_their_provenance():
    point = measure_operating_point(Thumbnail(), make_places(), queries=24)
    assert 0.9 < point.min_similarity <= 1
    assert 0 < point.min_local_score <= 1
    assert point.provenance.startswith('22 images of held-out walks')
