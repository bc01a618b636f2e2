"""Everything that decides what a training gives, in one YAML file."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from selavpr_ros.errors import SettingError
from selavpr_ros.training.data import Rules
from selavpr_ros.training.sources import Source

# The loss terms of each method; of multi_similarity's, all but the first are FoL's.
TERMS = {
    'triplets': ('global', 'local'),
    'multi_similarity': ('global', 'local', 'alignment', 'contrast', 'correspondence'),
    'views': ('tokens', 'descriptor', 'local', 'views', 'spots'),
}
AUGMENTS = ('none', 'randaugment')
OPTIMIZERS = ('adamw', 'muon')
SCHEDULES = ('constant', 'cosine', 'linear')
PRECISIONS = ('fp32', 'fp16', 'bf16')
# Smallest values that settings may have, and settings that have to be above 0.
AT_LEAST = {'local_stride': 1, 'rounds': 1, 'batches': 1, 'batch': 1, 'accumulate': 1,
            'negatives': 1, 'pool': 1, 'images_a_place': 2, 'points': 1, 'weight_decay': 0,
            'warm_up': 0, 'clip': 0, 'patience': 0, 'seed': 0, 'near': 0, 'workers': 0}
ABOVE_ZERO = ('learning_rate', 'temperature')


@dataclass(frozen=True)
class Recipe:
    """Data, start, method and schedule of one training. The defaults are SelaVPR's published ones.

    Attributes:
        data: the training images.
        held_out: images to validate with; never trained on. Without any, nothing is validated.
        weights: a model to start from: 'embedded' or a path, as for `load_model`.
        backbone: DINOv2's weights, a path or timm's name, for a new model whose adapters and
            heads alone are trained.
        architecture: family and sizes of a new model. Without weights and backbone, all of it is
            trained from scratch.
        image_size: (H, W) in pixels; None takes the model's own.
        local_stride: stride of a new model's local features, see `VprModel`.
        method: 'triplets' (SelaVPR), 'multi_similarity' (CricaVPR, SALAD, FoL) or 'views' (every
            image with a warped and relit copy of itself, for images without any pairs).
        terms: weight of each loss term by name; a term that is not named has its published
            weight, and 0 leaves a term out.
        augment: 'randaugment' changes every image as for the published CricaVPR and SALAD.
        rules: which images show the same place.
        rounds: how many times to mine (or draw) batches, train on them and validate.
        batches: number of batches in a round.
        batch: number of queries, places or images in a batch, depending on the method.
        accumulate: number of batches per optimizer step.
        optimizer: 'adamw', or 'muon', which learns faster from scratch and needs torch 2.9.
        learning_rate, weight_decay: of the optimizer; Adam is AdamW without decay.
        betas: of the optimizer's running means.
        schedule: how the learning rate changes over the steps: 'constant', 'cosine' or 'linear'.
        final_rate: share of the learning rate that is left at the end; not for 'constant'.
        warm_up: number of first optimizer steps over which the learning rate grows.
        clip: largest norm of the gradient; 0 does not clip.
        patience: stop after so many rounds without a better validation; 0 never stops.
        precision: of the network's computation: fp32, fp16 or bf16, which pay on a GPU; weights
            and losses are float32 in any case.
        seed: seed of the order of images, of new weights and of views.
        negatives: negatives per query; for triplets.
        pool: number of images among which a round looks for negatives; for triplets.
        images_a_place: images per place in a batch; for multi_similarity.
        stem_weights: what an architecture with `conv_stem` begins with: an installed package of
            weights of tf_efficientnet_lite0, or a file; '' takes timm's own.
        points: points of a pair of views at which local features are compared; for views.
        near: distance in [-1, 1] image coordinates under which two points are the same; for views.
        temperature: temperature of the softmax in the contrast losses; for views.
        half: store the weights in float16.
        workers: processes that read images; 0 reads in the training process.
    """

    data: tuple[Source, ...] = ()
    held_out: tuple[Source, ...] = ()
    weights: str = ''
    backbone: str = ''
    architecture: dict[str, Any] = field(default_factory=dict)
    image_size: tuple[int, int] | None = None
    local_stride: int = 1
    method: str = 'triplets'
    terms: dict[str, float] = field(default_factory=dict)
    augment: str = 'none'
    rules: Rules = field(default_factory=Rules)
    rounds: int = 50
    batches: int = 250
    batch: int = 4
    accumulate: int = 1
    optimizer: str = 'adamw'
    learning_rate: float = 1e-5
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = 'constant'
    final_rate: float = 0.02
    warm_up: int = 0
    clip: float = 0.0
    patience: int = 3
    precision: str = 'fp32'
    seed: int = 0
    negatives: int = 2
    pool: int = 1000
    images_a_place: int = 4
    stem_weights: str = ''
    points: int = 256
    near: float = 0.08
    temperature: float = 0.07
    workers: int = 0
    half: bool = False

    def __post_init__(self) -> None:
        for name, known in (('method', TERMS), ('optimizer', OPTIMIZERS), ('schedule', SCHEDULES),
                            ('precision', PRECISIONS), ('augment', AUGMENTS)):
            if getattr(self, name) not in known:
                raise SettingError(
                    f"{name} '{getattr(self, name)}' is none of {', '.join(known)}")
        for name, least in AT_LEAST.items():
            if not getattr(self, name) >= least:
                raise SettingError(f'{name} = {getattr(self, name)}: at least {least}')
        for name in ABOVE_ZERO:
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(f'{name} = {getattr(self, name)}: above 0')
        if self.batches % self.accumulate:
            raise SettingError(f'accumulate = {self.accumulate} does not divide '
                               f'batches = {self.batches}')
        for name in self.terms:
            if name not in TERMS[self.method]:
                raise SettingError(f"terms: method {self.method} has no loss '{name}'; there are "
                                   f'{", ".join(TERMS[self.method])}')


Made = TypeVar('Made')


def _number(value: Any) -> Any:
    """The value as a float if it can be one: YAML reads 1 as an integer and 1e-5 as text."""
    if isinstance(value, bool):
        return value
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def _checked(value: Any, default: Any, where: str) -> Any:
    """The value if it has the default's type, or is text where the default is None."""
    kind = str if default is None else type(default)
    if value is None and default is None:
        return None
    if kind is float:
        value = _number(value)
    if type(value) is not kind and not (kind is tuple and isinstance(value, list)):
        needed = {int: 'a whole number', float: 'a number', bool: 'true or false', str: 'a text',
                  tuple: 'a list', dict: 'settings with names'}
        raise SettingError(f'{where} = {value!r}: need {needed.get(kind, kind.__name__)}')
    return value


def _make(kind: type[Made], content: Any, where: str, **ready: Any) -> Made:
    """A dataclass from a mapping, or a SettingError that names what is wrong.

    Args:
        kind: class of the dataclass.
        content: its settings.
        where: where the settings are, for error messages.
        ready: values in place of those of `content`.
    """
    if not isinstance(content, dict):
        raise SettingError(f'{where}: need settings with names, got {content!r}')
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    made = {}
    for name, value in content.items():
        if name not in known:
            raise SettingError(f"{where}: no setting '{name}'; there are {', '.join(known)}")
        if name not in ready:
            factory = known[name].default_factory
            default = known[name].default if factory is MISSING else factory()
            made[name] = _checked(value, default, f'{where}: {name}')
    try:
        return kind(**made, **ready)
    except SettingError as error:
        raise SettingError(f'{where}: {error}') from error


def _sources(content: Any, where: str) -> tuple[Source, ...]:
    if not isinstance(content, list):
        raise SettingError(f'{where}: need a list, each entry with a path or a kind')
    return tuple(_make(Source, entry, f'{where}, {name}') for name, entry in enumerate(content, 1))


def _image_size(sides: Any, where: str) -> tuple[int, int] | None:
    if sides is None:
        return None
    if not isinstance(sides, list) or [type(side) for side in sides] != [int, int]:
        raise SettingError(f'{where} = {sides!r}: need [height, width] in pixels')
    return sides[0], sides[1]


def make_recipe(content: Any, where: str) -> Recipe:
    """Make a recipe of a mapping; what it does not name keeps its default.

    Raises:
        SettingError: a setting is unknown, of another type or out of its range.
    """
    if not isinstance(content, dict):
        raise SettingError(f'{where}: no settings in it')
    terms = _checked(content.get('terms') or {}, {}, f'{where}: terms')
    return _make(
        Recipe, content, where,
        data=_sources(content.get('data') or [], f'{where}: data'),
        held_out=_sources(content.get('held_out') or [], f'{where}: held_out'),
        rules=_make(Rules, content.get('rules') or {}, f'{where}: rules'),
        image_size=_image_size(content.get('image_size'), f'{where}: image_size'),
        terms={name: _checked(weight, 1.0, f'{where}: terms: {name}')
               for name, weight in terms.items()})


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from a YAML file.

    Raises:
        SettingError: no such file, no YAML, or a setting is unknown or out of its range.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f'{path}: cannot be read as a recipe ({error})') from error
    return make_recipe(content, str(path))


def with_seed(recipe: Recipe, seed: int | None) -> Recipe:
    """The same recipe with another seed, if one is given."""
    return recipe if seed is None else replace(recipe, seed=seed)
