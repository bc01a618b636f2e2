"""What other programs may import: it is all there, and the import alone takes nothing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import selavpr_ros
from selavpr_ros import (
    PlaceRecognizer,
    Pose,
    Settings,
    count_mutual_matches,
    load_model,
    preprocess,
)

PUBLIC = [
    'PlaceRecognizer', 'Pose', 'Settings', 'count_mutual_matches', 'load_model', 'preprocess']


def modules_after(code: str) -> set[str]:
    """Names of the modules that a new Python has imported after some code."""
    done = subprocess.run([sys.executable, '-c', f'{code}\nimport sys; print(*sys.modules)'],
                          capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_public_names_are_these():
    assert selavpr_ros.__all__ == PUBLIC
    assert set(PUBLIC) < set(dir(selavpr_ros))


def test_importing_the_package_imports_nothing_heavy():
    loaded = modules_after('import selavpr_ros')
    assert {'torch', 'timm', 'numpy', 'cv2', 'faiss', 'rclpy'}.isdisjoint(loaded)
    assert {name for name in loaded if name.startswith('selavpr_ros')} == {'selavpr_ros'}


def test_a_name_imports_what_it_needs_and_no_more():
    loaded = modules_after('from selavpr_ros import Pose, Settings')
    assert 'selavpr_ros.pose' in loaded
    assert {'torch', 'cv2', 'selavpr_ros.models'}.isdisjoint(loaded)


def test_the_names_are_what_the_package_itself_uses():
    from selavpr_ros import models, place_recognizer, pose, settings

    assert load_model is models.load_model
    assert PlaceRecognizer is place_recognizer.PlaceRecognizer
    assert (Pose, Settings) == (pose.Pose, settings.Settings)


def test_from_an_image_to_mutual_matches():
    model = load_model('hog')
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    tensor = preprocess(image, model.image_size, model.resize)
    local = model(tensor[None]).local_features
    assert count_mutual_matches(local[0], local).tolist() == [999]
    with torch.inference_mode():
        assert PlaceRecognizer(model, Settings()).recognize(image, 0) is not None


@pytest.mark.parametrize('package', ['selavpr_ros', 'selavpr_ros.models'])
def test_other_names_are_refused_as_usual(package):
    with pytest.raises(ImportError, match='nothing_of_this_name'):
        exec(f'from {package} import nothing_of_this_name')
