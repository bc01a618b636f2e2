"""Methods of training: each class decides what a batch is made of and which losses it has."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import chain, cycle, islice

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Subset
from tqdm import tqdm

from selavpr_ros.errors import SettingError
from selavpr_ros.images.preprocess import denormalise, normalise
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.models.conv_stem import ConvStem
from selavpr_ros.models.families.fol import FoL
from selavpr_ros.models.families.selavpr import SelaVPR
from selavpr_ros.models.loading import DTYPES
from selavpr_ros.training.data import Places
from selavpr_ros.training.describe import describe
from selavpr_ros.training.fol_losses import FOL_WEIGHTS, fol_terms
from selavpr_ros.training.losses import (
    global_contrast_loss,
    imitation_loss,
    local_contrast_loss,
    multi_similarity_loss,
    selavpr_terms,
)
from selavpr_ros.training.recipe import Recipe
from selavpr_ros.training.teacher import Teacher
from selavpr_ros.training.views import (
    randaugment,
    random_homographies,
    relight,
    transform,
    warp,
)

FIT_IMAGES = 250  # images from which the stem's scales and components are computed
TRIES = 10  # attempts per place of a batch, and per image of a place
Batches = list[list[int]]


class Method(nn.Module, ABC):
    """A model with its losses: `method(images, index)` gives the loss terms.

    Randomness comes from torch's default generators, which the loop seeds before every call, so
    that a resumed training draws the same numbers.

    Args:
        model: the model to train.
        places: training images.
        recipe: settings.

    Raises:
        SettingError: there are no images, or the method cannot train this model.
    """

    def __init__(self, model: VprModel, places: Places, recipe: Recipe) -> None:
        super().__init__()
        if not len(places):
            raise SettingError('no images to train on: the recipe needs entries of data')
        self.model, self.places, self.recipe = model, places, recipe

    @abstractmethod
    def draw(self, count: int) -> Batches:
        """Choose the images of the next `count` batches, by index."""

    @abstractmethod
    def forward(self, images: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        """Weighted loss terms of images (B, 3, H, W), normalised, and their indices (B,)."""

    def _autocast(self) -> torch.autocast:
        """The recipe's precision for the network alone: views and losses want float32."""
        lower = self.recipe.precision != 'fp32'
        dtype = DTYPES[self.recipe.precision] if lower else None
        return torch.autocast(self.model.device.type, dtype, enabled=lower)

    def _augmented(self, images: torch.Tensor) -> torch.Tensor:
        """Images augmented as the recipe says; drawn here, so that resuming draws the same."""
        return randaugment(images) if self.recipe.augment == 'randaugment' else images

    def _weighted(
        self, terms: dict[str, torch.Tensor], published: dict[str, float] | None = None
    ) -> dict[str, torch.Tensor]:
        """Terms times their weights: the recipe's, else the published ones, else 1."""
        weights = {**(published or {}), **self.recipe.terms}
        return {name: term * weights.get(name, 1.0) for name, term in terms.items()}


def in_batches(groups: list[list[int]], size: int, count: int) -> Batches:
    """Put groups of images together, `size` groups a batch; repeat them up to `count` batches."""
    endless = cycle(groups)
    return [list(chain.from_iterable(islice(endless, size))) for _ in range(count)]


class Triplets(Method):
    """Query, best positive and hardest negatives, mined anew each round ("partial mining").

    Source: SelaVPR (Lu et al., ICLR 2024), section 3.4; mining as in NetVLAD (Arandjelovic et
    al., CVPR 2016), among a random part of the images.
    """

    def __init__(self, model: VprModel, places: Places, recipe: Recipe) -> None:
        super().__init__(model, places, recipe)
        if model.local_positions() is None:
            raise SettingError('method triplets needs a grid of local features, which '
                               f'{model.family} does not have: take multi_similarity')

    def _queries(self, count: int) -> torch.Tensor:
        """Random images, none twice before all were drawn."""
        every = -(-count // len(self.places))
        return torch.cat([torch.randperm(len(self.places)) for _ in range(every)])[:count]

    def _triplet(
        self, query: int, positives: torch.Tensor, pool: torch.Tensor, known: torch.Tensor,
        rows: torch.Tensor,
    ) -> list[int]:
        """Query, best positive, hardest negatives; [] if the image lacks one of them.

        Args:
            query: index of an image.
            positives: indices of other images of its place.
            pool: indices of the images among which negatives are sought.
            known: (N,) row of each image in `rows`.
            rows: (M, D) global descriptors.
        """
        negatives = pool[self.places.different(torch.tensor([query]), pool)[0]]
        count = self.recipe.negatives
        if not len(positives) or len(negatives) < count:
            return []
        best = (rows[known[positives]] @ rows[known[query]]).argmax()
        hardest = (rows[known[negatives]] @ rows[known[query]]).topk(count).indices
        return [query, int(positives[best]), *negatives[hardest].tolist()]

    def draw(self, count: int) -> Batches:
        """Mine triplets for `count * batch` queries.

        Raises:
            SettingError: no image has a positive and enough negatives.
        """
        queries = self._queries(count * self.recipe.batch)
        pool = torch.randperm(len(self.places))[: self.recipe.pool]
        positives = [self.places.positives(query) for query in queries.tolist()]
        needed = torch.cat([queries, pool, *positives]).unique()
        known = torch.full((len(self.places),), -1)
        known[needed] = torch.arange(len(needed))
        with self._autocast():
            rows, _ = describe(self.model, Subset(self.places, needed.tolist()),
                               workers=self.recipe.workers)
        mined = [self._triplet(query, of_its_place, pool, known, rows)
                 for query, of_its_place in zip(queries.tolist(), positives, strict=True)]
        triplets = [triplet for triplet in mined if triplet]
        if not triplets:
            rules = self.places.rules
            raise SettingError(
                f'none of {len(queries)} images has both another image of the same place (within '
                f'{rules.positive_m:g} m) and {self.recipe.negatives} of other places (beyond '
                f'{rules.negative_m:g} m): set the rules for smaller sites, or method: views')
        return in_batches(triplets, self.recipe.batch, count)

    def forward(self, images: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        negatives = self.recipe.negatives

        def part(rows: torch.Tensor, which: slice) -> torch.Tensor:
            groups = rows.unflatten(0, (-1, 2 + negatives))[:, which]
            return groups.expand(-1, negatives, *groups.shape[2:]).flatten(0, 1)

        images = self._augmented(images)
        with self._autocast():
            described = self.model(images)
        assert described.local_features is not None
        query, positive, negative = (
            Descriptors(part(described.global_descriptor, which),
                        part(described.local_features, which))
            for which in (slice(0, 1), slice(1, 2), slice(2, None)))
        return self._weighted(selavpr_terms(query, positive, negative))


class MultiSimilarity(Method):
    """Batches of places with several images each (CricaVPR, SALAD, FoL; GSV-Cities)."""

    def _place(self) -> list[int]:
        """A random image and others of its place, repeated if there are too few."""
        size = self.recipe.images_a_place
        image = int(torch.randint(len(self.places), ()))
        others = self.places.positives(image)
        others = others[torch.randperm(len(others))[: TRIES * size]]
        candidates = torch.cat([torch.tensor([image]), others])
        same = self.places.same(candidates, candidates)
        chosen = [0]
        for number in range(1, len(candidates)):
            if same[number, chosen].all():  # two neighbours of an image may be far apart
                chosen.append(number)
        return list(islice(cycle(candidates[chosen].tolist()), size))

    def _batch(self) -> list[int]:
        """Places that surely differ: `batch` of them, or as many as a small site has."""
        chosen: list[int] = []
        for _ in range(TRIES * self.recipe.batch):
            place = self._place()
            others = torch.tensor(chosen, dtype=torch.long)
            if self.places.different(torch.tensor(place), others).all():
                chosen += place
            if len(chosen) == self.recipe.batch * self.recipe.images_a_place:
                break
        return chosen

    def draw(self, count: int) -> Batches:
        """Draw `batch` places for every batch.

        Raises:
            SettingError: no batch has two places that surely differ.
        """
        batches = [self._batch() for _ in range(count)]
        usable = [batch for batch in batches if len(batch) > self.recipe.images_a_place]
        if not usable:
            raise SettingError(
                f'{len(self.places)} images show no two places that surely differ (beyond '
                f'{self.places.rules.negative_m:g} m): set the rules for smaller sites, or '
                'method: views')
        return list(islice(cycle(usable), count))

    def forward(self, images: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        size, images = self.recipe.images_a_place, self._augmented(images)
        places = torch.arange(len(index) // size, device=images.device)
        labels = places.repeat_interleave(size)
        if isinstance(self.model, FoL):
            with self._autocast():
                outputs = self.model.training_outputs(images)
            return self._weighted(fol_terms(outputs, labels), FOL_WEIGHTS)
        with self._autocast():
            descriptors = self.model.describe_together(images).global_descriptor
        return self._weighted({'global': multi_similarity_loss(descriptors, labels)})


def corresponding_features(
    maps: torch.Tensor, homographies: torch.Tensor, count: int, near: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sample local features of first views and their counterparts in second views.

    Args:
        maps: (2B, d, g, g) unit local features, B first and B second views of the same images.
        homographies: (2B, 3, 3) from view to image, both in [-1, 1].
        count: points an image; those outside of the second view are left out.
        near: distance under which two points of an image may not count as different.

    Returns:
        query and match (M, d), unit rows, and which pairs may not count as different (M, M).
    """
    first, second = homographies.to(maps).chunk(2)
    patches = (maps.shape[-1] + 3) // 4
    inside = 1 - 1 / patches  # the grid of features ends half a patch inside of the image
    points = (2 * torch.rand(len(first), count, 2, device=maps.device) - 1) * inside
    there = transform(torch.linalg.inv(second), transform(first, points))

    def sample(features: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        sampled = functional.grid_sample(features, at[:, None] / inside, align_corners=True)
        return functional.normalize(sampled[:, :, 0].mT, dim=-1)

    usable = there.abs().amax(dim=-1) < inside
    number = torch.arange(len(first), device=maps.device)[:, None].expand_as(usable)[usable]
    same_image = number[:, None] == number
    alike = same_image & (torch.cdist(there[usable], there[usable]) < near)
    query, match = (sample(part, at)[usable] for part, at in
                    zip(maps.chunk(2), (points, there), strict=True))
    return query, match, alike


class Views(Method):
    """Each image with a warped and relit copy of itself: for images without any pairs.

    The true correspondence of the pixels is known, so the local features learn to find their
    counterparts. A network with a convolutional stem has a teacher, too, which sees the views
    before they are relit: tokens and descriptors imitate the teacher's.
    """

    model: SelaVPR
    teacher: Teacher | None

    def __init__(self, model: VprModel, places: Places, recipe: Recipe) -> None:
        super().__init__(model, places, recipe)
        if not isinstance(model, SelaVPR):
            raise SettingError(f'method views trains selavpr, not {model.family}')
        if model.image_size[0] != model.image_size[1]:
            raise SettingError(f'method views needs square images, image_size is '
                               f'{list(model.image_size)}')
        stem = model.backbone.patch_embed
        self.teacher = None
        if isinstance(stem, ConvStem):
            self.teacher = Teacher(stem, model.local_head.upconv2.out_channels)
            self.teacher.fit(self._some_images())
            if recipe.architecture:  # a new model
                stem.load_state_dict(self.teacher.stem.state_dict())

    def _some_images(self) -> torch.Tensor:
        some = torch.randperm(len(self.places))[:FIT_IMAGES].tolist()
        images = [self.places[i] for i in tqdm(some, desc='fitting the stem', unit='image')]
        return self._resize(torch.stack(images))

    def _resize(self, images: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(
            images, size=self.model.image_size, mode='bilinear', antialias=True)

    def draw(self, count: int) -> Batches:
        """Draw `batch` random images for every batch, and for each another one of its place."""
        chosen = torch.randint(len(self.places), (count, self.recipe.batch))
        return [[*batch, *map(self._partner, batch)] for batch in chosen.tolist()]

    def _partner(self, image: int) -> int:
        """The image itself, or every other time another one of its place."""
        others = self.places.positives(image)
        if not len(others) or torch.rand(()) < 0.5:
            return image
        return int(others[torch.randint(len(others), ())])

    def _imitation(
        self, clean: torch.Tensor, patches: torch.Tensor, described: Descriptors
    ) -> dict[str, torch.Tensor]:
        """Losses against the teacher, which sees the views before they are relit."""
        if self.teacher is None:
            return {}
        tokens, descriptor, local = self.teacher(clean)
        assert described.local_features is not None
        # As GeM sees the tokens, ignoring negative values. Half of the channels are negative at
        # each patch, which leaves room for what the local features need besides.
        seen = functional.normalize(patches.float().relu(), dim=-1)
        return {
            'tokens': imitation_loss(seen, tokens),
            'descriptor': imitation_loss(described.global_descriptor, descriptor),
            'local': imitation_loss(described.local_features, local),
        }

    def forward(self, images: torch.Tensor, index: torch.Tensor) -> dict[str, torch.Tensor]:
        count = len(index) // 2
        homographies = torch.cat(
            [random_homographies(count, strength) for strength in (0.4, 1.0)]).to(images.device)
        images = self._augmented(images)
        clean = warp(denormalise(images), homographies, self.model.image_size[0])
        seen = normalise(relight(clean))
        with self._autocast():
            _, patches = self.model.backbone(seen)
            described = self.model.heads(patches)
        terms = self._imitation(normalise(clean), patches, described)
        return self._weighted({**terms, **self._contrast(described, homographies, index.cpu())})

    def _contrast(
        self, described: Descriptors, homographies: torch.Tensor, index: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Losses by which views of a place, and features of a spot, learn to find each other."""
        temperature = self.recipe.temperature
        first, second = index.chunk(2)
        negative = self.places.different(first, second) & self.places.different(second, first)
        terms = {}
        if self.recipe.terms.get('views', 1.0):
            query, match = described.global_descriptor.chunk(2)
            negative = negative.to(query.device)
            terms['views'] = global_contrast_loss(query, match, negative, temperature)
        if self.recipe.terms.get('spots', 1.0):
            assert described.local_features is not None
            side = math.isqrt(described.local_features.shape[1])
            maps = described.local_features.mT.unflatten(2, (side, side))
            one_image = torch.cat([first == second] * 2)
            terms['spots'] = local_contrast_loss(*corresponding_features(
                maps[one_image], homographies[one_image], self.recipe.points, self.recipe.near),
                temperature)
        return terms


METHODS: dict[str, type[Method]] = {
    'triplets': Triplets, 'multi_similarity': MultiSimilarity, 'views': Views}
