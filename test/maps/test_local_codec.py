"""How local features are kept: their sizes, what is lost, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from maps import assert_same_local, make_local, unit_rows

from selavpr_ros.errors import SettingError
from selavpr_ros.maps.local_codec import (
    BINARY,
    CODECS,
    FLOAT16,
    INT8,
    NONE,
    _rotation,
    encode,
    from_bytes,
)

KEEPING = tuple(codec for codec in CODECS if codec != NONE)
# Of the first two unit vectors: maps that exist were written with these.
FIRST_SIGNS = '6bf502c30b33b3d1d9075d1b8a58605997fa01c3073373e2e60bae2745a490a6'


@pytest.fixture(scope='module')
def features() -> torch.Tensor:
    """As many and as long as SelaVPR's."""
    return torch.from_numpy(unit_rows(3721, 128))


@pytest.mark.parametrize(('codec', 'nbytes'), [
    (FLOAT16, 952_576), (INT8, 476_288), (BINARY, 59_536)])
def test_sizes_of_selavpr(features, codec, nbytes):
    encoded = encode(features, codec)
    assert encoded.nbytes == len(encoded.data.tobytes()) == nbytes
    assert (len(encoded), encoded.dim, encoded.codec) == (3721, 128, codec)


def test_none_keeps_nothing(features):
    assert encode(features, NONE) is None


@pytest.mark.parametrize('codec', KEEPING)
@pytest.mark.parametrize(('count', 'dim'), [
    (3721, 128), (1, 1), (1, 7), (5, 8), (5, 9), (12, 13), (0, 128), (300, 1)])
def test_bytes_and_back(codec, count, dim):
    encoded = encode(torch.from_numpy(unit_rows(count, dim)), codec)
    back = from_bytes(codec, len(encoded), encoded.dim, encoded.data.tobytes())
    assert_same_local(back, encoded)
    assert back.data.shape == encoded.data.shape
    decoded = back.decode()
    assert (decoded.shape, decoded.dtype) == ((count, dim), torch.float32)
    torch.testing.assert_close(decoded, encoded.decode(), rtol=0, atol=0)


def test_float16_is_what_numpy_makes_of_it(features):
    decoded = encode(features, FLOAT16).decode()
    np.testing.assert_array_equal(
        decoded.numpy(), features.numpy().astype(np.float16).astype(np.float32))
    torch.testing.assert_close(decoded.norm(dim=1), torch.ones(3721), rtol=0, atol=1e-3)


def test_int8_is_off_by_half_a_step_at_most(features):
    encoded = encode(features, INT8)
    steps = features.abs().amax(dim=1, keepdim=True) / 127
    restored = torch.from_numpy(encoded.data.astype(np.float32)) * steps
    assert bool(((restored - features).abs() <= steps / 2 * (1 + 1e-5)).all())
    assert (np.abs(encoded.data).max(axis=1) == 127).all()


def test_int8_hardly_changes_a_cosine(features):
    decoded = encode(features, INT8).decode()
    torch.testing.assert_close(decoded.norm(dim=1), torch.ones(3721), rtol=0, atol=1e-6)
    wanted, found = features[:500] @ features[500:1000].T, decoded[:500] @ decoded[500:1000].T
    assert float((wanted - found).abs().max()) < 0.01
    assert float((decoded * features).sum(dim=1).min()) > 0.9995


@pytest.mark.parametrize(('dim', 'width'), [(1, 64), (63, 64), (64, 64), (128, 128), (130, 256)])
def test_binary_keeps_signs_of_the_rotated_feature(dim, width):
    features = torch.from_numpy(unit_rows(50, dim))
    encoded = encode(features, BINARY)
    assert encoded.data.shape == (50, width // 8)
    assert set(encoded.signs().unique().tolist()) == {-1.0, 1.0}
    assert float((encoded.decode() * features).sum(dim=1).min()) > 0.6


def test_the_rotation_keeps_cosines_and_is_the_same_everywhere():
    rotation = _rotation(128)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(128), atol=1e-6)
    first = encode(torch.eye(128)[:2], BINARY).data
    assert first.tobytes().hex() == FIRST_SIGNS


def test_what_differs_in_one_direction_differs_in_half_of_the_signs():
    """One bit of such features would say all, and the other 127 nothing."""
    features = torch.zeros(2, 128)
    features[:, 0], features[1, 0] = 1.0, -1.0
    signs = encode(features, BINARY).signs()
    assert float((signs[0] != signs[1]).float().mean()) > 0.8


def test_equal_bits_grow_with_the_cosine():
    """Two signs differ with probability angle / pi (Charikar 2002)."""
    first = unit_rows(1, 4096)[0]
    other = unit_rows(1, 4096, seed=1)[0]
    other -= (other @ first) * first
    other /= np.linalg.norm(other)
    for angle in (0.1, 0.5, 1.0, 1.5):
        second = np.cos(angle) * first + np.sin(angle) * other
        signs = encode(torch.from_numpy(np.stack([first, second])), BINARY).signs()
        different = float((signs[0] != signs[1]).float().mean())
        assert different == pytest.approx(angle / np.pi, abs=0.03)


@pytest.mark.parametrize('codec', KEEPING)
def test_features_of_zeros_stay_finite(codec):
    """A black image may have such ones; they match nothing, but break nothing."""
    encoded = encode(torch.zeros(4, 10), codec)
    decoded = encoded.decode()
    assert torch.isfinite(decoded).all()
    assert codec == BINARY or not decoded.any()


@pytest.mark.parametrize('codec', KEEPING)
def test_other_types_and_layouts_are_taken(codec):
    rows = torch.from_numpy(unit_rows(20, 12))
    wanted = encode(rows, codec)
    assert_same_local(encode(rows.double(), codec), wanted)
    assert_same_local(encode(rows.T.contiguous().T, codec), wanted)
    assert_same_local(encode(rows.clone().requires_grad_(), codec), wanted)


def test_an_unknown_codec():
    with pytest.raises(SettingError, match=r"map\.local_codec = 'jpeg' is none of none, float16"):
        encode(torch.zeros(1, 4), 'jpeg')


@pytest.mark.parametrize('codec', KEEPING)
def test_bytes_of_another_size_are_refused(codec):
    encoded = make_local(codec, (6, 16))
    content = encoded.data.tobytes()
    for count, dim, given in ((6, 16, content[:-1]), (6, 16, content + b'x'), (7, 16, content),
                              (6, 100, content), (6, 16, b''), (0, 16, content)):
        with pytest.raises(ValueError, match=f'{len(given)} bytes are not {count} local features '
                                             rf'of {dim} numbers \({codec}\)'):
            from_bytes(codec, count, dim, given)
