"""The families of systems: every other file of this folder is one, and describes itself.

Such a file is named after its family. It has a `FAMILY`, and `SYSTEMS`: what there is to load.
Nothing in this file imports torch, so that a list of the systems does not wait seconds for it.
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
    """What a user wants to know of one checkpoint, or of several of the same size.

    The values are literals: `catalogue` reads them without importing the file.

    Attributes:
        name: as in the literature; of a system without weights, that of its family.
        family: as in `VprModel.family`.
        files: names of the files; '' for none.
        source: page where they are obtained; '' if the system comes with the package.
        code_licence, weights_licence: of the published code, and what is said of the weights.
        image_size: (H, W) in pixels of the published results.
        global_dim: length of the global descriptor.
        local: local features of an image, count x length; '' for none.
        recall: recall@1 in percent by data set, as published; 'a > b' is before and after
            re-ranking.
        note: how these figures came about; '' if there is nothing to say.
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
        """Whether it comes with the package."""
        return not self.source


def _no_sizes(state: StateDict) -> Sizes:
    return {}


def _all(model: VprModel, name: str) -> bool:
    return True


@dataclass(frozen=True)
class Family:
    """How networks of one kind are recognised, built and trained.

    Attributes:
        network: the class. Called without the number of heads, if it takes `num_heads`, it is a
            transformer: its sizes have a `width`, and its `backbone` knows the `num_heads`.
        marker: part of a key that the files of other families do not have; '' for a family
            without weights, which is loaded by its name.
        names: pattern and replacement that turn this package's names into the published ones,
            in this order; published names pass unchanged.
        sizes: reads the network's arguments, all but the number of heads, from the tensors of a
            file under their published names.
        constants: tensors that the network has and the files do not.
        trains: whether a training that starts with weights changes the parameter of this name.
        method: of `training.methods`, that the published recipe uses; '' without a recipe.
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
        """Whether its systems are files; otherwise its name is all that it takes to load it."""
        return bool(self.marker)

    @property
    def takes_heads(self) -> bool:
        """Whether the network has a number of attention heads, which no tensor tells."""
        return 'num_heads' in signature(self.network).parameters

    def published(self, name: str) -> str:
        """The name that a parameter has in published files."""
        for pattern, replacement in self.names:
            name = re.sub(pattern, replacement, name)
        return name


def family_named(name: str) -> Family:
    """The family of a name; no other family's file is imported.

    Raises:
        SettingError: there is none.
    """
    if name not in FILES:
        raise SettingError(f"family '{name}' is none of {', '.join(FILES)}")
    family: Family = import_module(f'{__name__}.{name}').FAMILY
    return family


def all_families() -> list[Family]:
    """Every family, by name."""
    return [family_named(name) for name in FILES]


def trainable() -> dict[str, Family]:
    """The families that there is a recipe for, by name."""
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
    """The arguments that make such a network."""
    family = family_of(model)
    state = {family.published(key): tensor for key, tensor in model.state_dict().items()}
    return {**family.sizes(state), **heads_of(model)}
