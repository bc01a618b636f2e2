import pytest
import torch
from places import Colours, make_places, walk
from tiny_checkpoints import make
from torch.utils.data import Subset

from selavpr_ros.images.preprocess import denormalise
from selavpr_ros.training.describe import BATCH, describe

RAINBOW = [(n, 255 - n, 40) for n in range(BATCH + 5)]


def test_all_images_are_described_in_order():
    places = make_places(walk(len(RAINBOW), colours=RAINBOW))
    rows, features = describe(Colours(), places, local=True)
    assert (rows.shape, rows.dtype) == ((len(RAINBOW), 3), torch.float32)
    expected = torch.nn.functional.normalize(torch.tensor(RAINBOW) - 127.5, dim=1)
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=0)
    assert len(features) == len(RAINBOW)
    assert (features[3].shape, features[3].dtype) == ((2, 3), torch.float16)
    some, _ = describe(Colours(), Subset(places, [7, 2]))
    assert torch.equal(some, rows[[7, 2]])


@pytest.mark.parametrize('training', [True, False])
def test_the_network_is_in_the_state_for_recognition_and_then_as_before(training):
    model = Colours().train(training)
    describe(model, make_places(walk(2)))
    assert model.states == [False]
    assert model.training == training


def test_nothing_is_kept_that_was_not_asked_for():
    places = make_places(walk(3))
    assert describe(Colours(), places)[1] == []
    assert describe(Colours(local=False), places, local=True)[1] == []
    assert not describe(make('dinov2_gem').requires_grad_(True), make_places(
        walk(1), size=(56, 56)))[0].requires_grad


def test_rows_of_zeros_that_fill_a_batch_up_are_left_out():
    class Padded(Colours):
        def forward(self, images):
            described = super().forward(images)
            described.local_features[denormalise(images).mean(dim=(1, 2, 3)) < 100, 1] = 0
            return described

    places = make_places(walk(2, colours=[(255, 255, 0), (0, 0, 255)]))
    _, features = describe(Padded(), places, local=True)
    assert [len(one) for one in features] == [2, 1]


def test_worker_processes_read_the_same():
    places = make_places(walk(5, colours=RAINBOW[:5]))
    here, there = (describe(Colours(), places, workers=n)[0] for n in (0, 1))
    assert torch.equal(here, there)
