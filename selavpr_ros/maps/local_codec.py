"""How local features are kept: as float16, or with 8 bits or 1 bit per number.

Bytes of SelaVPR's 3721 features of 128 numbers: 952 576 as float16, 476 288 as int8, 59 536 as
binary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
import torch

from selavpr_ros import settings
from selavpr_ros.errors import SettingError

CODECS = settings.CODECS
NONE, FLOAT16, INT8, BINARY = CODECS
INT8_MAX = 127

# Binary features are compared by how many signs differ. Equal signs have to outnumber the others
# by this share, so that matches by chance do not count: 28 of 128 may differ.
MIN_SIGN_SIMILARITY = 0.55

_DTYPES: dict[str, type[np.generic]] = {
    FLOAT16: np.float16, INT8: np.int8, BINARY: np.uint8}


@cache
def _rotation(dim: int) -> np.ndarray:
    """(dim, width) that spreads a feature evenly over all signs, the same on every machine.

    Without it, directions in which features hardly differ would get as many bits as others. A
    randomised Hadamard transform, applied twice (Ailon & Chazelle, "The fast Johnson-Lindenstrauss
    transform", 2009); width is dim rounded up to a power of two, and at least 64.
    """
    hadamard = np.ones((1, 1), np.float32)
    while len(hadamard) < max(dim, 64):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    random = Random(0)  # Python guarantees its sequence
    first, second = (
        np.array([random.choice((-1, 1)) for _ in hadamard], np.float32) for _ in range(2))
    rotation = (first[:, None] * hadamard) @ (second[:, None] * hadamard)
    return rotation[:dim] / len(hadamard)


@dataclass(frozen=True, eq=False)
class EncodedFeatures:
    """Local features of one image as they lie in memory and in the map file.

    Attributes:
        codec: one of CODECS, but not 'none'.
        dim: numbers of a feature before it was encoded, d.
        data: (N, d) float16, (N, d) int8, or (N, b) uint8 with the signs of the rotated feature,
            8 in a byte.
    """

    codec: str
    dim: int
    data: np.ndarray

    def __len__(self) -> int:
        return len(self.data)

    @property
    def nbytes(self) -> int:
        """Bytes of the features."""
        return self.data.nbytes

    def signs(self) -> torch.Tensor:
        """(N, 8 b) float32 of -1 and 1; for binary features alone."""
        return torch.from_numpy(np.unpackbits(self.data, axis=1)).float() * 2 - 1

    def decode(self) -> torch.Tensor:
        """The features (N, d) float32 as unit rows; binary ones are estimated from their signs."""
        if self.codec == BINARY:
            values = self.signs() @ torch.from_numpy(_rotation(self.dim)).T
        else:
            values = torch.from_numpy(self.data.astype(np.float32))
        # float16 keeps unit rows at length 1; int8 and signs do not.
        return values if self.codec == FLOAT16 else torch.nn.functional.normalize(values, dim=1)


def encode(features: torch.Tensor, codec: str) -> EncodedFeatures | None:
    """Encode the local features of one image.

    int8 scales each feature by its largest number, which changes no cosine. binary keeps the
    signs of the rotated feature: the share of equal signs of two features grows with their cosine
    (Charikar, "Similarity estimation techniques from rounding algorithms", 2002).

    Args:
        features: (N, d) unit rows.
        codec: one of CODECS.

    Returns:
        The features, or None for the codec 'none'.

    Raises:
        SettingError: no such codec.
    """
    if codec not in CODECS:
        raise SettingError(f"map.local_codec = '{codec}' is none of {', '.join(CODECS)}")
    if codec == NONE:
        return None
    rows = features.detach().float().cpu().numpy()
    dim = rows.shape[1]
    if codec == FLOAT16:
        return EncodedFeatures(codec, dim, rows.astype(np.float16))
    if codec == INT8:
        largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)
        largest[largest == 0.0] = 1.0
        return EncodedFeatures(codec, dim, np.rint(rows * (INT8_MAX / largest)).astype(np.int8))
    signs = np.ascontiguousarray(rows @ _rotation(dim) > 0)
    return EncodedFeatures(codec, dim, np.packbits(signs, axis=1))


def from_bytes(codec: str, count: int, dim: int, content: bytes) -> EncodedFeatures:
    """The features that `EncodedFeatures.data.tobytes()` wrote.

    Raises:
        ValueError: the bytes are not those of `count` features of `dim` numbers.
    """
    width = _rotation(dim).shape[1] // 8 if codec == BINARY else dim
    dtype = np.dtype(_DTYPES[codec])
    if len(content) != count * width * dtype.itemsize:
        raise ValueError(f'{len(content)} bytes are not {count} local features of {dim} numbers '
                         f'({codec})')
    return EncodedFeatures(codec, dim, np.frombuffer(content, dtype).reshape(count, width))
