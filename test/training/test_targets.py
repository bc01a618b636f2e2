import torch

from selavpr_ros.models.local_features import UpConvLocalFeatures
from selavpr_ros.training.targets import gradient_votes, hog_targets


def test_there_is_a_target_for_every_local_feature():
    images = torch.rand(2, 3, 56, 56) * 255
    targets = hog_targets(images)
    features = UpConvLocalFeatures(8, 8, 128)(torch.rand(2, 4, 4, 8))
    assert targets.shape == features.shape
    torch.testing.assert_close(targets.norm(dim=-1), torch.ones(targets.shape[:2]))


def test_votes_go_to_the_gradients_orientation_whatever_its_sign():
    ramp = torch.arange(16.0).expand(16, 16)
    for grey, orientation in ((ramp, 0), (-ramp, 0), (ramp.T, 4)):
        votes = gradient_votes(grey[None])[0, :, 8, 8]
        assert votes.argmax() == orientation
        assert votes[(orientation + 4) % 8] == 0


def test_gain_does_not_change_the_targets():
    images = torch.rand(1, 3, 56, 56) * 100
    torch.testing.assert_close(hog_targets(images), hog_targets(2 * images), atol=1e-3, rtol=0)
