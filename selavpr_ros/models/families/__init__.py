"""The families of systems; every other file of this folder defines one.

Such a file is named after its family. It defines `FAMILY`, and `SYSTEMS`, the checkpoints to load.
This file does not import torch, which takes seconds, so that listing the systems is quick.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavpr_ros.errors import SettingError

if TYPE_CHECKING:
    from selavpr_ros.models.base import VprModel
    from selavpr_ros.models.checkpoints import StateDict

Names = tuple[tuple[str, str], ...]
Sizes = dict[str, Any]

FILES = {path.stem: path for path in sorted(Path(__file__).parent.glob('*.py'))
         if path.stem != '__init__'}


@dataclass(frozen=True)
class System:
    """What a user wants to know about one checkpoint, or about several of the same size.

    The values are literals: `catalogue` reads them without importing the file.

    Attributes:
        name: as in the literature; the family's name for a system without weights.
        family: as in `VprModel.family`.
        files: names of the files; '' for none.
        source: page, or timm's name, of the files; '' if the system comes with the package.
        code_licence, weights_licence: licence of the published code, and the one stated for the
            weights.
        image_size: (H, W) in pixels of the published results.
        global_dim: length of the global descriptor.
        local: local features of an image, as count x length; '' for none.
        recall: recall@1 in percent by data set, as published; 'a > b' is before and after
            re-ranking.
        note: under which conditions these figures hold; '' for none.
        sizes: arguments of the network, where they are not its defaults.
    """

    name: str
    family: str
    files: str
    source: str
    code_licence: str
    weights_licence: str
    image_size: tuple[int, int]
    global_dim: int
    local: str = ''
    recall: Mapping[str, str] = field(default_factory=dict)
    note: str = ''
    sizes: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_built_in(self) -> bool:
        """Whether the system comes with the package."""
        return not self.source


def _no_sizes(state: StateDict) -> Sizes:
    return {}


def _all(model: VprModel, name: str) -> bool:
    return True


@dataclass(frozen=True)
class Family:
    """How networks of one kind are recognised, built and trained.

    Attributes:
        network: class of the networks. One that takes `num_heads` is a transformer: its `sizes`
            have a `width`, and its `backbone` has an attribute `num_heads`.
        marker: part of a key of its files, so that the likely families are tried first; '' for a
            family without weights, which is loaded by its name.
        names: pairs of pattern and replacement, applied in this order, that turn this package's
            names into the published ones; published names pass unchanged.
        sizes: function that reads the network's arguments, all but the number of heads, from the
            tensors of a file under their published names.
        constants: tensors that the network has and the files do not.
        trains: function that tells whether training that starts from weights changes the
            parameter of this name.
        method: method of `training.methods` that the published recipe uses; '' for no recipe.
    """

    network: type[VprModel]
    marker: str = ''
    names: Names = ()
    sizes: Callable[[StateDict], Sizes] = _no_sizes
    constants: StateDict = field(default_factory=dict)
    trains: Callable[[VprModel, str], bool] = _all
    method: str = ''

    @property
    def name(self) -> str:
        """As in `VprModel.family`."""
        return self.network.family

    @property
    def has_weights(self) -> bool:
        """Whether its systems are loaded from files; otherwise by the family's name alone."""
        return bool(self.marker)

    @property
    def takes_heads(self) -> bool:
        """Whether the network takes a number of attention heads, which no tensor shows."""
        return 'num_heads' in signature(self.network).parameters

    def published(self, name: str) -> str:
        """The name that a parameter has in published files."""
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return name


def family_named(name: str) -> Family:
    """The family with this name; only its own file is imported.

    Raises:
        SettingError: no family has this name.
    """
    if name not in FILES:
        raise SettingError(f"family '{name}' is none of {', '.join(FILES)}")
    family: Family = import_module(f'{__name__}.{name}').FAMILY
    return family


def all_families() -> list[Family]:
    """Every family, by name."""
    return [family_named(name) for name in FILES]


def trainable() -> dict[str, Family]:
    """The families that have a training recipe, by name."""
    return {family.name: family for family in all_families() if family.method}


def family_of(model: VprModel) -> Family:
    """The family of a network."""
    return family_named(model.family)


def heads_of(model: VprModel) -> Sizes:
    """The number of attention heads as an argument of the network, if it takes one."""
    if not family_of(model).takes_heads:
        return {}
    return {'num_heads': model.get_submodule('backbone').num_heads}


def sizes_of(model: VprModel) -> Sizes:
    """The arguments that build a network like this one."""
    family = family_of(model)
    state = {family.published(key): tensor for key, tensor in model.state_dict().items()}
    return {**family.sizes(state), **heads_of(model)}
