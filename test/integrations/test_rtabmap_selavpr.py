"""The descriptor file for RTAB-Map: loaded by its path, and called as from C++."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from selavpr_ros.errors import ImageError
from selavpr_ros.images.preprocess import preprocess
from selavpr_ros.models import load_model

FILE = Path(__file__).parents[2] / 'integrations/rtabmap_selavpr.py'
HOST = Path(__file__).with_name('rtabmap_host.cpp')
HOG_DIM = 384


def load_file():
    """A fresh copy of the module."""
    spec = importlib.util.spec_from_file_location('rtabmap_selavpr', FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hog(monkeypatch):
    """The module, to be initialised with the baseline on the CPU."""
    monkeypatch.setenv('SELAVPR_WEIGHTS', 'hog')
    monkeypatch.setenv('SELAVPR_DEVICE', 'cpu')
    return load_file()


@pytest.fixture(scope='module')
def rgb():
    return np.random.default_rng(3).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def own_descriptor(weights, rgb):
    """(1, D) as the package itself makes it."""
    model = load_model(weights)
    with torch.inference_mode():
        images = preprocess(rgb, model.image_size, model.resize)[None]
        return model(images).global_descriptor.numpy()


def as_rtabmap(pixels):
    """RTAB-Map's view of OpenCV's memory: signed bytes."""
    return np.ascontiguousarray(pixels).view(np.int8)


@pytest.mark.parametrize('weights', ['hog', 'embedded'])
def test_a_bgr_image_has_the_descriptor_of_the_package(hog, monkeypatch, rgb, weights):
    monkeypatch.setenv('SELAVPR_WEIGHTS', weights)
    expected = own_descriptor(weights, rgb)
    hog.init(expected.shape[1])
    descriptor = hog.extract(as_rtabmap(rgb[:, :, ::-1]))
    assert (descriptor.dtype, descriptor.shape) == (np.float32, (1, expected.shape[1]))
    assert descriptor.flags.c_contiguous
    assert descriptor.tobytes() == expected.tobytes()
    assert np.linalg.norm(descriptor) == pytest.approx(1.0, abs=1e-5)


def test_a_grey_image_has_the_descriptor_of_three_equal_channels(hog, rgb):
    hog.init(HOG_DIM)
    grey = rgb[:, :, :1]
    expected = own_descriptor('hog', grey.repeat(3, axis=2))
    assert hog.extract(as_rtabmap(grey)).tobytes() == expected.tobytes()


def test_a_uniform_image_has_a_descriptor_without_nan(hog):
    # RTAB-Map dies of NaN, and of a node that has no descriptor where others have one.
    hog.init(HOG_DIM)
    assert np.isfinite(hog.extract(np.zeros((60, 80, 3), np.int8))).all()


def test_the_image_is_not_needed_after_the_call(hog, rgb):
    hog.init(HOG_DIM)
    pixels = as_rtabmap(rgb).copy()
    descriptor = hog.extract(pixels)
    before = descriptor.copy()
    pixels[:] = 0
    assert np.array_equal(descriptor, before)


@pytest.mark.parametrize('shape', [(60, 80, 2), (60, 80, 4), (0, 80, 3)])
def test_other_shapes_are_refused(hog, shape):
    hog.init(HOG_DIM)
    with pytest.raises(ImageError, match='need an'):
        hog.extract(np.zeros(shape, np.int8))


def test_another_dimension_is_told_by_every_extract(hog, rgb):
    hog.init(4096)  # RTAB-Map's default; raising here would crash it
    for _ in range(2):
        with pytest.raises(RuntimeError, match='384 numbers, not 4096: set PyDescriptor/Dim to'):
            hog.extract(as_rtabmap(rgb))


def test_an_error_is_ascii(hog, monkeypatch, rgb):
    monkeypatch.setenv('SELAVPR_WEIGHTS', '/home/jörg/weights.pth')
    hog.init(HOG_DIM)
    with pytest.raises(RuntimeError, match=r'CheckpointError: .*/j\\xf6rg/weights.pth') as raised:
        hog.extract(as_rtabmap(rgb))
    assert str(raised.value).isascii()


def test_extract_before_init_says_so(hog, rgb):
    with pytest.raises(RuntimeError, match='init was not called'):
        hog.extract(as_rtabmap(rgb))


def test_init_again_starts_anew(hog, rgb):
    hog.init(HOG_DIM)
    first = hog.extract(as_rtabmap(rgb))
    hog.init(HOG_DIM)
    assert np.array_equal(hog.extract(as_rtabmap(rgb)), first)
    hog.init(100)
    with pytest.raises(RuntimeError, match='not 100'):
        hog.extract(as_rtabmap(rgb))
    hog.init(HOG_DIM)
    assert np.array_equal(hog.extract(as_rtabmap(rgb)), first)


def test_another_thread_may_extract(hog, rgb):
    # Inference mode is a matter of each thread.
    hog.init(HOG_DIM)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(hog.extract(as_rtabmap(rgb))))
    thread.start()
    thread.join()
    assert np.array_equal(answers[0], hog.extract(as_rtabmap(rgb)))


def test_the_usage_names_the_dimension_of_the_embedded_model():
    named = int(re.search(r'PyDescriptor/Dim (\d+)', load_file().__doc__).group(1))
    assert named == load_model('embedded').global_dim


def test_loading_the_file_imports_nothing_heavy():
    script = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location('rtabmap_selavpr', {str(FILE)!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(*sys.modules)"""
    loaded = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True,
                            check=True).stdout.split()
    assert 'numpy' in loaded
    assert {'torch', 'timm', 'cv2', 'selavpr_ros'}.isdisjoint(loaded)


@pytest.fixture(scope='module')
def host(tmp_path_factory):
    """(dim, image) -> the finished process that embeds Python as RTAB-Map does."""
    names = 'LIBDIR', 'LIBPL', 'LDVERSION', 'Py_ENABLE_SHARED'
    folder, private, version, is_shared = map(sysconfig.get_config_var, names)
    if not is_shared:
        pytest.skip('this Python has no shared library to embed')
    program = tmp_path_factory.mktemp('host') / 'rtabmap_host'
    includes = sysconfig.get_path('include'), np.get_include()
    subprocess.run(
        ['g++', HOST, *(f'-I{include}' for include in includes), f'-L{folder}', f'-L{private}',
         f'-Wl,-rpath,{folder}', f'-lpython{version}', '-pthread', '-o', program], check=True)
    # The interpreter looks for its packages where the first python3 of the PATH has them.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(dim, image):
        return subprocess.run(
            [program, FILE.parent, FILE.stem, *map(str, (dim, *image.shape))],
            input=image.tobytes(), capture_output=True, check=False,
            env={**os.environ, 'PATH': path, 'SELAVPR_WEIGHTS': 'hog', 'SELAVPR_DEVICE': 'cpu'})

    return run


def test_embedded_in_a_program_it_answers_from_a_thread_of_its_own(host, rgb):
    finished = host(HOG_DIM, rgb[:, :, ::-1])
    assert finished.returncode == 0, finished.stderr.decode()
    descriptor = np.frombuffer(finished.stdout, np.float32)
    assert np.allclose(descriptor, own_descriptor('hog', rgb)[0], atol=1e-6)


def test_embedded_with_another_dimension_the_program_lives_to_tell(host, rgb):
    finished = host(4096, rgb)
    assert finished.returncode == 2  # extract raised; 3 would be a crash
    assert b'set PyDescriptor/Dim to 384' in finished.stderr
