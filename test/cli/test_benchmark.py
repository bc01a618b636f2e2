"""The benchmark runs and compares like with like; its times are nobody's test."""

from __future__ import annotations

import argparse
import importlib
import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import laps
import numpy as np
import pytest
import torch

from selavpr_ros.cli.benchmark import (
    COST_COLUMNS,
    COST_WIDTHS,
    Row,
    add_arguments,
    cost_cells,
    format_row,
    measure_matching,
    measure_search,
    plain_counts,
    plan_map,
)
from selavpr_ros.cli.main import main
from selavpr_ros.errors import GroundTruthError, SettingError
from selavpr_ros.evaluation.map_costs.plan import Plan
from selavpr_ros.evaluation.measure import Cost, measure_cost, median_ms, plan
from selavpr_ros.models.catalogue import SYSTEMS
from selavpr_ros.models.footprint import Footprint
from selavpr_ros.models.random_values import build_random
from selavpr_ros.text import line

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'

SMALL = {
    'width': 64, 'depth': 2, 'num_heads': 2, 'adapter_hidden': 8, 'local_hidden': 8,
    'local_dim': 8, 'branches': (4, 2, 2), 'encoder_layers': 1, 'encoder_hidden': 8, 'hidden': 8,
    'clusters': 4, 'cluster_dim': 8, 'token_dim': 8, 'registers': 4}


def small(system):
    return replace(system, sizes={name: SMALL[name] for name in system.sizes})


def test_plain_formula_is_the_definition():
    query = torch.eye(3)
    matches = torch.stack([torch.eye(3)[[2, 0, 1]], torch.eye(3)[[0, 0, 0]]])
    assert plain_counts(query, matches).tolist() == [3, 1]


def test_matching_and_search_compare_with_a_reference():
    assert measure_matching(1, 'cpu').reference > 0
    assert measure_search(500).reference > 0


def test_rows_show_the_ratio():
    assert format_row(Row('matching', 10.0, 45.0, 'same')).split() == [
        'matching', '10.00', '45.00', '4.5x', 'same']


def test_the_verb_prints_a_table(capsys):
    assert main(['benchmark', '--weights', 'hog', '--keyframes', '200', '--candidates', '1']) == 0
    text = capsys.readouterr().out
    for what in ('forward, hog', 'matching a candidate', 'map search', 'node overhead',
                 'import selavpr_ros', 'vpr --help'):
        assert what in text


# ---- vpr benchmark --models ---------------------------------------------------------------------


def test_the_plan_has_every_system_and_begins_with_the_reference():
    planned = plan()
    assert planned[0].name == 'SelaVPR'
    assert {s.name for s in planned} == {s.name for s in SYSTEMS} | {'hog', 'embedded'}
    assert [s.image_size for s in planned if s.name == 'FoL, large'] == [(504, 504), (322, 322)]


def test_the_plan_can_be_narrowed():
    assert {s.name for s in plan(['FOL', 'hog'])} == {'FoL, large', 'FoL, base', 'hog'}
    with pytest.raises(SettingError, match="begins with 'netvlad'.*'SALAD'"):
        plan(['netvlad'])


def test_a_call_is_repeated_until_its_time_is_spent():
    calls = []
    median_ms(lambda: calls.append(0), repetitions=9, budget_s=0)
    assert len(calls) == 1 + 3
    median_ms(lambda: calls.append(0), repetitions=9)
    assert len(calls) == 1 + 3 + 1 + 9


BY_NAME = {system.name: system for system in SYSTEMS}
ONE_A_FAMILY = {system.family: system for system in SYSTEMS}


@pytest.mark.parametrize('system', ONE_A_FAMILY.values(), ids=ONE_A_FAMILY)
def test_random_values_give_descriptors_of_any_system(system):
    cost = measure_cost(small(system), 'cpu', 'fp32', 1)
    assert cost.forward_ms > 0
    assert cost.parameters > 0
    assert (cost.matching_ms > 0) == (cost.footprint.local_bytes > 0) == bool(system.local)


def test_random_values_are_the_same_for_the_same_seed():
    first, same, other = (
        build_random(small(BY_NAME['SelaVPR']), seed=seed).state_dict() for seed in (0, 0, 1))
    key = 'backbone.blocks.0.attn.wrapped.qkv.weight'
    assert torch.equal(first[key], same[key])
    assert not torch.equal(first[key], other[key])
    assert first['aggregation.p'].tolist() == [3.0]


def test_a_line_of_the_table():
    cost = Cost(
        BY_NAME['SelaVPR'], 357_427_585, 1200.0, 65.0, Footprint(1024, 3721, 128, False))
    cells = cost_cells(cost, 600.0, 20)
    assert cells == ['SelaVPR', '224x224', '357.4', '1200.0', '2.00x', '65.0', '2500', '6.1',
                     '952.6']
    assert cost.footprint.local_bytes == 952_576
    assert cost_cells(cost, math.nan, 20)[4] == '-'
    only_global = Cost(
        BY_NAME['SALAD'], 87_990_721, 600.0, 0.0, Footprint(8448, 0, 0, False))
    assert cost_cells(only_global, 1200.0, 20)[4:] == ['0.50x', '-', '600', '50.7', '-']
    assert len(line(cells, COST_WIDTHS, 1)) == len(line(COST_COLUMNS, COST_WIDTHS, 1))


def test_the_verb_prints_the_table_of_systems(capsys):
    assert main(['benchmark', '--models', '--only', 'hog', '--candidates', '1']) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ['system', 'input']
    assert row.split()[:3] == ['hog', '240x320', '0.0']
    assert row.split()[-2:] == ['2.3', '255.7']


# ---- vpr benchmark --map ------------------------------------------------------------------------


@pytest.fixture(scope='module')
def walks(tmp_path_factory) -> list[str]:
    """Two walks past four places, and the pairs of one that turns back."""
    root = tmp_path_factory.mktemp('walks')
    for lap, name in enumerate(('left', 'right')):
        (root / name).mkdir()
        for place in range(4):
            assert cv2.imwrite(f'{root / name}/{place}.png', laps.picture(place, lap)[..., ::-1])
    return [f'{root}/left', f'{root}/right']


def test_the_verb_measures_a_map(walks, tmp_path, capsys):
    words = ['benchmark', '--map', '--quick', '--sizes', '150', '300', '--weights', 'hog',
             '--frames', *walks, '-o', str(tmp_path / 'out')]
    assert main(words) == 0
    text = capsys.readouterr().out
    for title in ('Bytes of a keyframe', 'Matching a candidate', 'Recall@1 by codec',
                  'Maps of several sizes', 'Estimate, not measured', 'Targets'):
        assert f'## {title}\n\n| ' in text
    assert 'Memory of a whole program\n\nLeft out: ' in text
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'map_costs.json', 'map_costs.png']
    found = json.loads((tmp_path / 'out/map_costs.json').read_text())
    assert {one['size'] for one in found['sizes']} == {150, 300}
    assert {one['codec']: one['queries'] for one in found['recalls']} == dict.fromkeys(
        ('none', 'float16', 'int8', 'binary'), 4)
    assert main(words) == 1
    assert 'is not empty' in capsys.readouterr().err


def plan_of(*words: str) -> Plan:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return plan_map(parser.parse_args(['--map', *words]))


def test_what_is_measured_of_a_map():
    plan = plan_of()
    assert list(plan.models) == ['embedded']
    assert (plan.sizes, plan.process_keyframes) == ((1000, 10_000, 100_000), 20_000)
    assert not plan.sets
    assert (plan_of('--quick').sizes, plan_of('--quick').process_keyframes) == ((1000, 10_000), 0)


def test_several_sets_of_images(walks):
    pairs = f'{walks[0]}/loops.csv'
    Path(pairs).write_text('image_a,image_b\n4,1\n')
    with pytest.raises(GroundTruthError, match='none of 4 queries'):  # it excludes ten images
        plan_of('--pairs', walks[0], pairs)
    sets = plan_of('--frames', *walks, '--frames', *walks[::-1]).sets
    assert [one.name for one in sets] == ['right-left', 'left-right']


@pytest.mark.parametrize(('words', 'message'), [
    (['--sizes', '99'], '99 is below 100'),
    (['--models'], 'not allowed with'),
])
def test_maps_that_cannot_be_measured(words, message, capsys):
    with pytest.raises(SystemExit):
        plan_of(*words)
    assert message in capsys.readouterr().err


def test_a_map_needs_a_model():
    with pytest.raises(SettingError, match='--map needs a model'):
        plan_of('--weights')


# ---- benchmarks/precision.py --------------------------------------------------------------------


@pytest.fixture
def precision(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module('precision')


def test_changes_are_counted_for_the_pairs_that_both_found(precision):
    before = precision.Found(torch.tensor([[1, 2], [0, 2]]), torch.tensor([[10, 4], [8, 2]]))
    after = precision.Found(torch.tensor([[2, 3], [2, 0]]), torch.tensor([[5, 1], [2, 6]]))
    assert sorted(precision.count_changes(before, after).tolist()) == [0.0, 0.25, 0.25]
    assert before.best_matched.tolist() == [1, 0]
    assert after.best_matched.tolist() == [2, 0]


def test_precisions_are_compared_on_images(precision, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 30, 40, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        cv2.imwrite(f'{tmp_path}/{number}.png', image)
    (tmp_path / 'notes.txt').write_text('no image')
    precision.measure(precision.parse(['hog', str(tmp_path), '--limit', '4']))
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith('hog, own values, 4 images, cpu')
    assert header.split()[:2] == ['computed', 'in']
    assert [row.split()[0] for row in rows] == ['fp32', 'fp16', 'bf16']
    assert all(row.count(' of 4') == 2 for row in rows)
