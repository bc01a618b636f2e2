"""What a learned model has to beat: a thumbnail, ORB, and its own network without training."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from selavpr_ros.errors import CheckpointError
from selavpr_ros.evaluation.recall import TOP_K, Evaluation, Ranking, retrieve
from selavpr_ros.evaluation.truth import EvaluationSet, Images
from selavpr_ros.images.compressed import read_image
from selavpr_ros.images.preprocess import denormalise
from selavpr_ros.models.base import Descriptors, VprModel
from selavpr_ros.models.families import family_of, sizes_of
from selavpr_ros.models.families.hog import LUMA
from selavpr_ros.models.loading import read_model

PATCH = 8  # pixels
# Grey levels added to the deviation of a patch, so that a patch without texture stays flat.
FLAT = 1e-3

ORB_FEATURES = 1000  # of an image, at most; ORB-SLAM's number for small images
# A feature's best match counts if it is clearly better than the second best one (Lowe, IJCV 2004).
ORB_RATIO = 0.8
ORB_ID = f'orb{ORB_FEATURES}/ratio{ORB_RATIO:g}'
ALL_MATCHED = 'all matched'


class Thumbnail(VprModel):
    """A grey image of 32x24 pixels, each patch of 8x8 with mean 0 and deviation 1.

    The description of SeqSLAM (Milford and Wyeth, ICRA 2012), compared by its cosine.
    """

    family = 'thumbnail'
    name = 'thumbnail'
    resize = 'area'
    image_size = (24, 32)
    size_multiple = PATCH

    luma: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('luma', torch.tensor(LUMA).view(1, 3, 1, 1))
        self.fingerprint = hashlib.sha256(repr((PATCH, FLAT, LUMA)).encode()).hexdigest()

    def forward(self, images: torch.Tensor) -> Descriptors:
        """Describe images (B, 3, H, W), normalised."""
        grey = (denormalise(images) * self.luma).sum(dim=1, keepdim=True)
        patches = functional.unfold(grey, PATCH, stride=PATCH)
        patches = patches - patches.mean(dim=1, keepdim=True)
        flat = (patches / (patches.std(dim=1, keepdim=True) + FLAT)).flatten(1)
        return Descriptors(functional.normalize(flat, dim=-1), None)


def _fingerprint(model: torch.nn.Module) -> str:
    values = hashlib.sha256()
    for tensor in model.state_dict().values():
        values.update(tensor.numpy().tobytes())
    return values.hexdigest()


def load_untrained(
    weights: str | Path = 'embedded', seed: int = 0, image_size: tuple[int, int] | None = None
) -> VprModel:
    """The network of a file of weights with torch's random start instead of its values.

    Args:
        weights: as in `load_model`, but of a family that has weights.
        seed: seed of the random values.
        image_size: (H, W) in pixels; the model's own where None.

    Raises:
        CheckpointError: a file is missing, broken or of no known family, or the family has no
            weights.
        SettingError: the image size does not fit the model.
    """
    trained = read_model(weights, image_size, None, False, None)
    if not family_of(trained).has_weights:
        raise CheckpointError(f"'{weights}' has no weights that could be left out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(trained)(**sizes_of(trained))
    model.name = f'untrained{seed}'
    model.fingerprint = _fingerprint(model)
    model.image_size, model.resize = trained.image_size, trained.resize
    model.local_stride = trained.local_stride
    return model.eval().requires_grad_(False)


# ---- ORB ----------------------------------------------------------------------------------------


def describe_orb(images: Images, *, progress: bool = False) -> list[np.ndarray]:
    """ORB descriptors (n, 32) uint8 of every image; n is 0 for an image without corners.

    Raises:
        ImageError: a file cannot be read.
    """
    orb = cv2.ORB_create(ORB_FEATURES)  # type: ignore[attr-defined]
    bar = tqdm(images, desc='describing', unit='image', leave=False, disable=not progress)
    found = (orb.detectAndCompute(cv2.cvtColor(read_image(image), cv2.COLOR_RGB2GRAY), None)[1]
             for image in bar)
    return [np.empty((0, 32), np.uint8) if rows is None else rows for rows in found]


def count_orb_matches(query: np.ndarray, match: np.ndarray) -> int:
    """Features (n, 32) whose best match among (m, 32) passes the ratio test; Hamming distance."""
    if len(query) == 0 or len(match) < 2:
        return 0
    distances, _ = cv2.batchDistance(query, match, cv2.CV_32S, normType=cv2.NORM_HAMMING, K=2)
    return int((distances[:, 0] < ORB_RATIO * distances[:, 1]).sum())


def _count_all(
    query: np.ndarray, database: list[np.ndarray], comparable: Iterable[int]
) -> torch.Tensor:
    """(N,) matches with every database image; 0 for those that are not comparable."""
    counts = torch.zeros(len(database))
    for image in comparable:
        counts[image] = count_orb_matches(query, database[image])
    return counts


def evaluate_orb(
    evaluation_set: EvaluationSet, top_k: int = TOP_K, *, progress: bool = False
) -> Evaluation:
    """Match every query with every database image by ORB, without geometry: slow, but strong.

    Returns:
        An evaluation whose one ranking is ALL_MATCHED.

    Raises:
        ImageError: a file cannot be read.
    """
    database = describe_orb(evaluation_set.database, progress=progress)
    queries = database
    if evaluation_set.queries is not evaluation_set.database:
        queries = describe_orb(evaluation_set.queries, progress=progress)

    def ask(asked: list[int]) -> dict[str, list[Ranking]]:
        rankings = []
        for query in tqdm(asked, desc='matching', unit='query', leave=False,
                          disable=not progress):
            comparable = evaluation_set.comparable(query)
            counts = _count_all(queries[query], database, comparable)
            rankings.append(retrieve(counts, comparable, top_k))
        return {ALL_MATCHED: rankings}

    return Evaluation(ORB_ID, evaluation_set, top_k, ask(evaluation_set.answerable),
                      ask(evaluation_set.unanswerable))
