"""Images of places, and which of them show the same place: what every training draws from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from selavpr_ros.errors import SettingError
from selavpr_ros.images.preprocess import preprocess

ReadImage = Callable[[], np.ndarray]
FAR = 1 << 62  # stands for the number of frames between images of different walks


@dataclass(frozen=True)
class Rules:
    """When two images show the same place, and when they surely do not; others are undecided.

    Attributes:
        positive_m, negative_m: metres between two cameras up to which they see the same place,
            and beyond which they do not, if both have a position; the defaults are usual ones.
        heading_rad: largest turn between two cameras that see the same place, if both have a
            heading; pi means any.
        same_within, other_beyond: frames of one walk up to which two images show the same place,
            and beyond which they do not, if there is no position.
    """

    positive_m: float = 10.0
    negative_m: float = 25.0
    heading_rad: float = math.pi
    same_within: int = 1
    other_beyond: int = 8

    def __post_init__(self) -> None:
        for near, far in (('positive_m', 'negative_m'), ('same_within', 'other_beyond')):
            least, most = getattr(self, near), getattr(self, far)
            if not 0 <= least <= most:
                raise SettingError(f'{near} = {least} and {far} = {most}: need 0 <= {near} <= '
                                   f'{far}, or two images would be of the same and of different '
                                   'places')
        if not self.heading_rad > 0:
            raise SettingError(f'heading_rad = {self.heading_rad}: above 0')


@dataclass(frozen=True)
class Walk:
    """Images that were taken one after the other, or that show one place.

    Attributes:
        images: functions that read one image each, (H, W, 3) uint8 RGB.
        kind: 'walk': neighbouring frames show the same place, distant ones do not; 'place': all
            images show one place; 'mixed': every image is a place of its own, unless positions
            tell otherwise.
        group: walks of one group may show the same places: unless positions tell, they are never
            each other's negatives.
        poses: (N, 3) x_m, y_m, yaw_rad, all in the group's frame; NaN where not known.
    """

    images: Sequence[ReadImage]
    kind: str
    group: str
    poses: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.poses is not None and self.poses.shape != (len(self.images), 3):
            raise SettingError(f'{self.group}: poses {self.poses.shape} of {len(self.images)} '
                               'images: need x_m, y_m, yaw_rad of each')


KINDS = ('walk', 'place', 'mixed')


class Places(Dataset[torch.Tensor]):
    """All images of all walks, with the rules which pairs show one place and which do not.

    Args:
        walks: where the images come from.
        rules: which images show the same place.
        size: (H, W) in pixels of the images that `places[i]` gives.
        resize: how these are resized, see `preprocess`.
    """

    def __init__(
        self, walks: Sequence[Walk], rules: Rules, size: tuple[int, int], resize: str = 'area'
    ) -> None:
        lengths = [len(walk.images) for walk in walks]
        groups = {name: number for number, name in enumerate(
            dict.fromkeys(walk.group for walk in walks))}

        def per_image(values: list[int]) -> torch.Tensor:
            return torch.tensor(np.repeat(values, lengths), dtype=torch.long)

        self.walks, self.rules, self.size, self.resize = walks, rules, size, resize
        self._read = [image for walk in walks for image in walk.images]
        self.walk = per_image(list(range(len(walks))))
        self.group = per_image([groups[walk.group] for walk in walks])
        self.kind = per_image([KINDS.index(walk.kind) for walk in walks])
        unknown = [np.full((length, 3), np.nan) for length in lengths]
        poses = [unknown[i] if walk.poses is None else walk.poses for i, walk in enumerate(walks)]
        self.poses = torch.from_numpy(np.concatenate(poses or [np.empty((0, 3))]))
        in_order = torch.argsort(self.group, stable=True)
        self._members = in_order.split(torch.bincount(self.group).tolist())

    def __len__(self) -> int:
        return len(self._read)

    def read(self, index: int) -> np.ndarray:
        """The image as it is, (H, W, 3) uint8 RGB."""
        return self._read[index]()

    def __getitem__(self, index: int) -> torch.Tensor:
        """The image as the model takes it, (3, H, W) normalised."""
        return preprocess(self.read(index), self.size, self.resize)

    def _pairs(
        self, query: torch.Tensor, match: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(A, B) each: frames apart if of one walk, metres apart and headings apart if known."""
        apart = (query[:, None] - match).abs()
        same_walk = self.walk[query][:, None] == self.walk[match]
        one_frame = self.group[query][:, None] == self.group[match]
        steps = self.poses[query][:, None] - self.poses[match]
        metres = torch.where(one_frame, steps[..., :2].norm(dim=-1), torch.nan)
        turned = (torch.remainder(steps[..., 2] + math.pi, 2 * math.pi) - math.pi).abs()
        return torch.where(same_walk, apart, FAR), metres, turned

    def same(self, query: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
        """Which images surely show the same place: indices (A,), (B,) -> (A, B) bool."""
        apart, metres, turned = self._pairs(query, match)
        reach = torch.tensor([self.rules.same_within, len(self) - 1, 0])[self.kind[query]]
        near = (metres <= self.rules.positive_m) & ~(turned > self.rules.heading_rad)
        return torch.where(metres.isnan(), apart <= reach[:, None], near)

    def different(self, query: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
        """Which images surely show different places: indices (A,), (B,) -> (A, B) bool."""
        apart, metres, _ = self._pairs(query, match)
        far = torch.tensor([self.rules.other_beyond, len(self), 0])[self.kind[query]]
        same_walk = self.walk[query][:, None] == self.walk[match]
        other_group = self.group[query][:, None] != self.group[match]
        by_order = other_group | (same_walk & (apart > far[:, None]))
        return torch.where(metres.isnan(), by_order, metres > self.rules.negative_m)

    def one_pass(
        self, query: torch.Tensor, match: torch.Tensor, same: torch.Tensor
    ) -> torch.Tensor:
        """Which images were taken together with the queries, and are too easy to recognise.

        By the kind of the walk, these are: for 'walk', the frames just before and after the
        query, and farther ones as long as all frames in between show its place (slow driving);
        for 'mixed', all images of its place in the walk; for 'place', the query alone.

        Args:
            query: (A,) indices.
            match: (B,) increasing indices of all images of the queries' walks, perhaps of others.
            same: (A, B) bool, which pairs show the same place.

        Returns:
            (A, B) bool.
        """
        same_walk = self.walk[query][:, None] == self.walk[match]
        left = (~(same & same_walk)).long().cumsum(dim=1)
        stayed = same & (left == left.gather(1, torch.searchsorted(match, query)[:, None]))
        soon = (query[:, None] - match).abs() <= self.rules.other_beyond
        kind = self.kind[query][:, None]
        in_order = (soon | stayed) & (kind == KINDS.index('walk'))
        itself = query[:, None] == match
        return same_walk & torch.where(kind == KINDS.index('mixed'), same, in_order | itself)

    def positives(self, index: int) -> torch.Tensor:
        """Other images of an image's place; where some are of another visit, only those.

        The frames before and after are the same place, too, but too easy to learn from.
        """
        one, members = torch.tensor([index]), self._members[self.group[index]]
        same = self.same(one, members)
        other = same & ~self.one_pass(one, members, same)
        return members[(other if other.any() else same & (members != index))[0]]
