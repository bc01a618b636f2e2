"""The list of published systems against the listings of their files and the networks."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from models_support import full_size

from selavpr_ros.models.catalogue import BUILT_IN, SYSTEMS, build
from selavpr_ros.models.families import FILES, all_families, family_named, family_of
from selavpr_ros.models.hub import BACKBONES

LISTINGS = {'SelaVPR': 'selavpr', 'SelaVPR, registers': 'selavpr_reg', 'CricaVPR': 'cricavpr',
            'SALAD': 'salad', 'FoL, large': 'fol'}
# With the unused mask token, which is as long as the model is wide.
PARAMETERS = {
    'SelaVPR': 357_428_609, 'SelaVPR, registers': 357_432_705, 'CricaVPR': 106_761_665,
    'SALAD': 87_991_489, 'FoL, large': 308_827_456, 'FoL, base': 90_056_256,
    'DINOv2-GeM, large': 304_368_641, 'DINOv2-GeM, base': 86_580_481}  # GeM's power is one more

every_system = pytest.mark.parametrize('system', SYSTEMS, ids=lambda system: system.name)


def _shape_of(system):
    with torch.device('meta'):
        return build(system)


@every_system
def test_networks_have_the_published_number_of_parameters(system):
    model = _shape_of(system)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert counted + model.backbone.embed_dim == PARAMETERS[system.name]
    assert model.family == system.family
    assert not model.training


@pytest.mark.parametrize('system', [s for s in SYSTEMS if s.name in LISTINGS],
                         ids=lambda system: system.name)
def test_networks_have_the_published_keys_and_shapes(shared, system):
    model = _shape_of(system)
    ours = {family_of(model).published(name): (tensor.shape, tensor.dtype)
            for name, tensor in model.state_dict().items()}
    listing = full_size(shared / 'goldens' / f'keys_{LISTINGS[system.name]}.txt')
    assert ours == {key: (tensor.shape, tensor.dtype) for key, tensor in listing.items()
                    if not key.endswith('mask_token')}


@every_system
def test_descriptors_have_the_stated_sizes(system, monkeypatch):
    # How many local features FoL has depends on values.
    monkeypatch.setattr(
        'selavpr_ros.models.families.fol.chosen_features', lambda features, chosen, grid: features)
    model = _shape_of(system)
    assert model.why_not(system.image_size) == ''
    descriptors = model(torch.empty(1, 3, *system.image_size, device='meta'))
    assert descriptors.global_descriptor.shape == (1, system.global_dim)
    local = descriptors.local_features
    stated = '' if local is None else f'{model.max_local_features} x {local.shape[2]}'
    assert stated == system.local


@pytest.mark.parametrize('name', FILES)
def test_what_is_read_of_a_family_is_what_its_file_says(name):
    """The rows are read without importing the file."""
    module = import_module(f'selavpr_ros.models.families.{name}')
    assert family_named(name) is module.FAMILY
    assert name == module.FAMILY.name
    read = [system for system in (*SYSTEMS, *BUILT_IN) if system.family == name]
    assert read == list(module.SYSTEMS)


def test_every_family_without_weights_is_listed_under_its_name():
    assert [family.name for family in all_families() if not family.has_weights] == [
        system.name for system in BUILT_IN if not system.files]


def test_names_are_unique_and_sources_can_be_followed():
    names = [system.name for system in SYSTEMS]
    assert len(names) == len(set(names)) == len(PARAMETERS)
    for system in SYSTEMS:
        assert system.source.startswith('https://') or system.source in BACKBONES
