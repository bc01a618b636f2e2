"""The published systems as networks in full size, without their files."""

from __future__ import annotations

from selavpr_ros.models.base import VprModel
from selavpr_ros.models.families import FAMILIES
from selavpr_ros.systems import SYSTEMS, System

__all__ = ['SYSTEMS', 'System', 'build']


def build(system: System) -> VprModel:
    """The network in full size, with the random values of its start: for tests and timings."""
    network = next(f.network for f in FAMILIES if f.network.family == system.family)
    model = network(**system.sizes)
    model.name, model.image_size = system.name, system.image_size
    return model.eval().requires_grad_(False)
