"""Image folders -> one array of small images, and which of them show the same place."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from selavpr_ros.errors import SettingError

STORED_SIDE = 256  # pixels; images are resized hard, as for the model
SUFFIXES = {'.jpg', '.jpeg', '.png'}
_FRAME_NUMBER = re.compile(r'_frame_\d+$|\d+$')


KINDS = ('walk', 'place', 'mixed')


@dataclass(frozen=True)
class Folder:
    """Where images are, and what their order says.

    Attributes:
        path: below the data folder; a pattern may stand for several folders.
        kind: 'walk': neighbouring frames show the same place, distant ones do not;
            'place': all files of a folder show one place; 'mixed': every image is a place.
        group: walks of one group may show the same places and are never each other's negatives;
            the folder itself unless given.
        left_out: patterns of paths below `path` that are not for training.
    """

    path: str
    kind: str
    group: str | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Walk:
    """Files of one folder and one name, in order of their number; see `Folder`."""

    files: tuple[Path, ...]
    kind: str
    group: str


def find_walks(data: Path, folder: Folder) -> list[Walk]:
    """Find the walks below the folder(s) of an entry.

    Raises:
        SettingError: unknown kind, or no image there.
    """
    if folder.kind not in KINDS:
        raise SettingError(f"kind '{folder.kind}' of {folder.path}: take one of {KINDS}")
    walks: dict[tuple[Path, Path, str], list[Path]] = {}
    for root in sorted(data.glob(folder.path)):
        for file in sorted(root.rglob('*')):
            relative = file.relative_to(root).as_posix()
            left_out = any(fnmatch.fnmatch(relative, pattern) for pattern in folder.left_out)
            if file.suffix.lower() in SUFFIXES and not left_out:
                name = _FRAME_NUMBER.sub('', file.stem)
                walks.setdefault((root, file.parent, name), []).append(file)
    if not walks:
        raise SettingError(f'{data / folder.path}: no .jpg or .png in it')
    return [
        Walk(tuple(files), folder.kind, folder.group or str(root))
        for (root, _, _), files in walks.items()
    ]


def read_images(files: Sequence[Path]) -> np.ndarray:
    """Decode and shrink images once: (N, 3, 256, 256) uint8 RGB."""
    images = np.empty((len(files), 3, STORED_SIDE, STORED_SIDE), np.uint8)
    for number, file in enumerate(tqdm(files, desc='reading', unit='image')):
        image = cv2.imread(str(file), cv2.IMREAD_COLOR)
        if image is None:
            raise SettingError(f'{file}: not an image')
        small = cv2.resize(image, (STORED_SIDE, STORED_SIDE), interpolation=cv2.INTER_AREA)
        images[number] = small[..., ::-1].transpose(2, 0, 1)
    return images


class Places:
    """All images of all walks, with the rules which pairs show one place and which do not.

    Args:
        walks: where the images come from.
        images: (N, 3, 256, 256), the walks' files one after the other.
        same_within: frames of a walk that many apart may stand in for each other.
        other_beyond: frames of a walk more than that many apart show different places.
    """

    def __init__(
        self, walks: Sequence[Walk], images: np.ndarray, same_within: int, other_beyond: int
    ) -> None:
        lengths = [len(walk.files) for walk in walks]
        groups = list(dict.fromkeys(walk.group for walk in walks))

        def per_image(values: list[int]) -> torch.Tensor:
            return torch.tensor(np.repeat(values, lengths))

        self.images = images
        self.walk = per_image(list(range(len(walks))))
        self.group = per_image([groups.index(walk.group) for walk in walks])
        self.kind = per_image([KINDS.index(walk.kind) for walk in walks])
        self.same_within, self.other_beyond = same_within, other_beyond

    def __len__(self) -> int:
        return len(self.walk)

    def different(self, query: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
        """Which images surely show different places: indices (A,), (B,) -> (A, B) bool."""
        apart = (query[:, None] - match).abs()
        same_walk = self.walk[query][:, None] == self.walk[match]
        same_group = self.group[query][:, None] == self.group[match]
        far = torch.tensor([self.other_beyond, len(self), 0])[self.kind[query]]
        return ~same_group | (same_walk & (apart > far[:, None]))

    def neighbours(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Draw for each image one of the same place a few frames away, where it has one."""
        reach = self.same_within
        offset = torch.randint(-reach, reach + 1, index.shape, generator=generator)
        other = (index + offset).clamp(0, len(self) - 1)
        paired = self.kind[index] != KINDS.index('mixed')
        usable = paired & (self.walk[other] == self.walk[index])
        return torch.where(usable, other, index)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Draw images for ever, half of each batch from one walk.

        The frames of one walk look alike without being one place: those are the negatives that
        a robot meets.
        """
        while True:
            start = torch.randint(len(self), (1,), generator=generator)
            alike = torch.nonzero(self.walk == self.walk[start])[:, 0]
            order = torch.randperm(len(alike), generator=generator)[: size // 2]
            rest = torch.randint(len(self), (size - len(order),), generator=generator)
            yield torch.cat([alike[order], rest])

    def pixels(self, index: torch.Tensor) -> torch.Tensor:
        """Fetch images by index (B,): (B, 3, 256, 256) float32 in [0, 255]."""
        return torch.from_numpy(self.images[index.numpy()]).float()
