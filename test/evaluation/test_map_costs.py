"""What a map costs is measured with real files, indices and processes, only small ones."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from selavpr_ros.evaluation.map_costs import plan as plan_module
from selavpr_ros.evaluation.map_costs.codecs import measure_bytes, measure_matching, measure_recall
from selavpr_ros.evaluation.map_costs.drive import Drive, random_features, write_map
from selavpr_ros.evaluation.map_costs.picture import draw_costs
from selavpr_ros.evaluation.map_costs.plan import PARTS, Plan, estimate, measure_all, why_no_room
from selavpr_ros.evaluation.map_costs.process import measure_process, own_memory
from selavpr_ros.evaluation.map_costs.results import (
    CodecBytes,
    CodecRecall,
    CodecTime,
    MapCosts,
    ProcessMemory,
    SizeCosts,
)
from selavpr_ros.evaluation.map_costs.sizes import (
    ask,
    measure_kind,
    measure_object_bytes,
    measure_size,
    open_cold,
)
from selavpr_ros.evaluation.map_costs.tables import (
    format_part,
    format_verdicts,
    verdicts,
    write_costs,
)
from selavpr_ros.evaluation.truth import EvaluationSet
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.keyframe import KeyframeId
from selavpr_ros.models import load_model
from selavpr_ros.models.footprint import Footprint
from selavpr_ros.recordings.ground_truth import SamePlace

SMALL = Footprint(32, 50, 16, False)


# ---- the drive ----------------------------------------------------------------------------------


def test_a_drive_looks_like_one():
    """Alike are neighbours, and a place with itself; places far apart are not."""
    drive = Drive(1000, 1024)
    rows, again = drive.describe(range(1000)), drive.describe(range(1000), visit=1)
    assert rows.shape == (1000, 1024)
    assert rows.dtype == np.float32
    assert (rows > 0).all()
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert np.median((rows[1:] * rows[:-1]).sum(1)) == pytest.approx(0.87, abs=0.02)
    assert np.median((rows * again).sum(1)) == pytest.approx(0.88, abs=0.02)
    assert np.median(rows[:500] @ rows[500:].T) == pytest.approx(0.48, abs=0.05)


def test_a_drive_can_be_taken_in_pieces_and_again():
    drive = Drive(1203, 8)
    chunks = list(drive.chunks(1203))
    assert [len(chunk) for chunk in chunks] == [500, 500, 203]
    for one, same in zip(chunks, Drive(1203, 8).chunks(1203), strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(drive.describe(range(3)), drive.describe(range(3), visit=1))


def test_a_map_is_written_as_it_is_told(tmp_path):
    drive, local = Drive(600, 8), random_features(SMALL, 'binary')
    write_map(tmp_path / 'a.vprmap', drive.chunks(600), local, every=200, thumbnail=b'jpeg')
    with MapFile(tmp_path / 'a.vprmap') as file:
        keyframes = list(file.keyframes())
        assert [k.id.keyframe_id for k in keyframes if k.has_local] == [1, 201, 401]
        assert file.codec == 'binary'
        assert file.thumbnail(KeyframeId(1, 600)) == b'jpeg'
        assert np.array_equal(file.local_features(KeyframeId(1, 201)).data, local.data)
    np.testing.assert_array_equal(
        np.stack([k.global_descriptor for k in keyframes]), np.concatenate(
            list(drive.chunks(600))))


# ---- by codec -----------------------------------------------------------------------------------


def test_bytes_are_those_of_a_file(tmp_path):
    by_codec = {one.codec: one for one in measure_bytes('small', SMALL, tmp_path, 400)}
    assert {codec: one.local for codec, one in by_codec.items()} == {
        'none': 0, 'float16': 1600, 'int8': 800, 'binary': 400}  # 64 signs at least
    for one in by_codec.values():
        assert one.local + 4 * 32 < one.in_file < one.local + 4 * 32 + 1500
        assert 4000 <= one.with_thumbnail - one.in_file < 5000
    assert not list(tmp_path.iterdir())


def test_a_system_without_local_features_has_no_codecs(tmp_path):
    only_global = Footprint(32, 0, 0, False)
    assert [one.codec for one in measure_bytes('g', only_global, tmp_path, 10)] == ['none']


def test_matching_is_timed_for_every_codec():
    found = measure_matching('small', SMALL, 1)
    assert [one.codec for one in found] == ['float16', 'int8', 'binary']
    assert all(0 < one.candidate_ms < 1000 for one in found)


def test_recall_without_local_features_is_that_of_similarity(told, told_image):
    """The more similar image is another place; only the eight local features tell."""
    database = np.stack([told_image(0, 0), told_image(30, 40)])
    asked = EvaluationSet('two', SamePlace(is_marked=True),
                          database, told_image(10, 41)[None], [[1]])
    found = {one.codec: one for one in measure_recall(told(), asked)}
    assert {codec: one.recall_1 for codec, one in found.items()} == {
        'none': 0.0, 'float16': 1.0, 'int8': 1.0, 'binary': 1.0}
    assert found['int8'].queries == 1
    assert found['int8'].set == 'two'


# ---- by size ------------------------------------------------------------------------------------


def test_the_answers_are_exact_and_leave_the_newest_out():
    drive = Drive(700, 64)
    questions = ask(drive, 700, count=30)
    rows = np.concatenate(list(drive.chunks(700)))[: 700 - 20]
    expected = np.argsort(-(questions.descriptors @ rows.T), axis=1)[:, :20]
    np.testing.assert_array_equal(questions.answers, expected)
    assert questions.among == range(680)


def test_every_kind_is_measured_and_finds_what_it_should(tmp_path):
    found = {one.index: one for one in measure_size(2100, 32, tmp_path)}
    assert {index: one.in_use for index, one in found.items()} == {
        'auto': 'flat', 'flat': 'flat', 'hnsw': 'hnsw', 'ivf': 'ivf'}
    for one in found.values():
        assert one.size == 2100
        assert one.recall_20 > (0.99 if one.in_use != 'ivf' else 0.8)
        assert 0 < one.search_ms <= one.search_p95_ms
        assert 0 < one.index_insertion_ms < one.insertion_ms <= one.insertion_p95_ms
        graph_s = (one.opening_without_graph_s, one.keeping_graph_s)
        assert graph_s == (None, None) if one.in_use != 'hnsw' else min(graph_s) > 0
    assert found['flat'].recall_1 == 1.0
    assert found['flat'].memory_bytes == 2100 * 32 * (4 + 2)
    assert found['hnsw'].memory_bytes > found['flat'].memory_bytes
    assert not list(tmp_path.iterdir())


def test_a_copy_grows_and_not_the_map(tmp_path):
    drive, path = Drive(350, 16), tmp_path / 'map.vprmap'
    write_map(path, drive.chunks(300), random_features(SMALL, 'binary'))
    measure_kind('flat', path, drive, ask(drive, 300, count=5))
    with MapFile(path) as map_file, MapFile(tmp_path / 'copy.vprmap') as copy:
        assert (len(map_file), len(copy)) == (300, 350)


def test_a_map_is_opened_from_the_disk(tmp_path):
    write_map(tmp_path / 'a.vprmap', Drive(50, 8).chunks(50))
    seconds, keyframe_map = open_cold(tmp_path / 'a.vprmap', 'flat')
    assert len(keyframe_map) == 50
    assert 0 < seconds < 60
    keyframe_map.close()


def test_objects_take_some_hundred_bytes(tmp_path):
    assert 300 < measure_object_bytes(tmp_path, 200) < 4000


# ---- a process ----------------------------------------------------------------------------------


def test_the_peak_is_of_this_process():
    _, before = own_memory()
    block = np.ones(before, np.uint8)
    now, peak = own_memory()
    assert before < now <= peak
    del block
    assert own_memory()[0] < now
    assert own_memory()[1] > now - (8 << 20)  # the system counts in batches


def test_a_process_reads_all_local_features(tmp_path):
    block = np.ones(1 << 30, np.uint8)  # of its parent, which is not counted
    found = measure_process('hog', tmp_path, 600)
    del block
    assert found.keyframes == 600
    # Half of them: what was loaded before may lie idle, and the system takes it back.
    assert 50 << 20 < found.loaded_bytes < found.peak_bytes - 600 * 59_536 / 2
    assert found.peak_bytes < 1 << 30
    assert found.opening_s > 0
    assert found.reading_ms > 0
    assert not list(tmp_path.iterdir())


# ---- estimate -----------------------------------------------------------------------------------


def of_size(size: int, index: str = 'flat', in_use: str = '', **values: float) -> SizeCosts:
    times = dict.fromkeys(('search_ms', 'search_p95_ms', 'insertion_ms', 'insertion_p95_ms',
                           'index_insertion_ms', 'opening_s'), 1.0)
    return SizeCosts(**{
        'size': size, 'index': index, 'in_use': in_use or index, 'recall_1': 1.0,
        'recall_20': 1.0, 'memory_bytes': 6000 * size, **times, **values})


def test_an_estimate_goes_on_as_it_was():
    costs = MapCosts(object_bytes=1000.0, sizes=[
        of_size(1000, search_ms=50.0), of_size(100_000, search_ms=60.0, opening_s=4.0),
        of_size(10_000, search_ms=6.0, opening_s=2.0)])
    flat, = estimate(costs)
    assert flat.search_ms == pytest.approx(600.0)
    assert flat.opening_s == pytest.approx(8.0)
    assert flat.insertion_ms == pytest.approx(1.0)
    assert flat.memory_bytes == pytest.approx(7e9)


def test_no_estimate_without_two_sizes_of_one_kind():
    assert not list(estimate(MapCosts(sizes=[of_size(1000)])))
    changed = [of_size(1000, 'ivf', 'flat'), of_size(10_000, 'ivf')]
    auto = [of_size(1000, 'auto', 'hnsw'), of_size(10_000, 'auto', 'hnsw')]
    assert not list(estimate(MapCosts(sizes=changed + auto)))


# ---- all of it ----------------------------------------------------------------------------------


def test_no_room_is_told_with_numbers(tmp_path, monkeypatch):
    assert why_no_room(tmp_path, 1) == ''
    assert 'of free space, 1000000.0 GB are needed: choose' in why_no_room(tmp_path, 10**15)
    monkeypatch.setattr(plan_module, 'why_no_room', lambda folder, needed: 'it is full')
    plan, costs = Plan({}, sizes=(300,), process_keyframes=5), MapCosts()
    PARTS['sizes'](plan, tmp_path, costs)
    PARTS['process'](plan, tmp_path, costs)
    assert costs.left_out == {'sizes': 'no 300 keyframes: it is full', 'process': 'it is full'}


def test_all_parts_are_measured_or_say_why_not(tmp_path):
    plan = Plan({'hog': load_model('hog')}, sizes=(150, 300), kinds=('flat', 'hnsw'), dim=16,
                keyframes=5, repetitions=1, process_keyframes=0)
    costs = MapCosts()
    parts = list(measure_all(plan, tmp_path, costs))
    assert parts == ['bytes', 'times', 'recalls', 'sizes', 'process', 'estimates']
    assert {one.system for one in costs.bytes} == {'SelaVPR', 'hog'}
    assert {one.system for one in costs.times} == {'SelaVPR', 'hog'}
    assert [one.size for one in costs.sizes] == [150, 150, 300, 300]
    assert [one.index for one in costs.estimates] == ['flat', 'hnsw']
    assert set(costs.left_out) == {'recalls', 'process'}
    assert all(costs.seconds[part] >= 0 for part in parts)
    assert not list(tmp_path.iterdir())
    for part in parts:
        assert format_part(part, costs).startswith('## ')


# ---- tables and picture -------------------------------------------------------------------------


@pytest.fixture
def costs() -> MapCosts:
    def recalls(model: str, *values: float) -> list[CodecRecall]:
        codecs = ('none', 'float16', 'int8', 'binary')
        return [CodecRecall(f'{model}/sha/224', 'walk', 200, codec, value)
                for codec, value in zip(codecs, values, strict=True)]

    measured = MapCosts(
        bytes=[CodecBytes('SelaVPR', codec, local, local + 7000.0, local + 11_000.0)
               for codec, local in (('none', 0), ('float16', 952_576), ('int8', 476_288),
                                    ('binary', 59_536))],
        times=[CodecTime('SelaVPR', 'float16', 60.0), CodecTime('SelaVPR', 'int8', 60.0),
               CodecTime('SelaVPR', 'binary', 24.0)],
        recalls=recalls('good', 0.88, 0.96, 0.95, 0.93) + recalls('bad', 0.6, 0.86, 0.84, 0.42),
        sizes=[of_size(size, index, {'auto': 'hnsw' if size > 20_000 else 'flat'}.get(index, ''),
                       search_ms=size / 5000)
               for size in (1000, 10_000, 100_000) for index in ('auto', 'flat', 'hnsw', 'ivf')],
        process=ProcessMemory(20_000, 500 << 20, 1900 << 20, 1.5, 0.2))
    measured.estimates = list(estimate(measured))
    return measured


def test_targets_are_judged(costs):
    judged = {verdict.what: verdict.is_met for verdict in verdicts(costs)}
    assert judged == {
        'SelaVPR, int8: bytes of local features': True,
        'SelaVPR, binary: bytes of local features': True,
        'good, int8: recall@1 lost on walk': True,
        'good, binary: recall@1 lost on walk': True,
        'bad, int8: recall@1 lost on walk': False,
        'bad, binary: recall@1 lost on walk': False,
        'binary matching, faster than float16': False,
        '100,000 keyframes, auto: search': False,
        '100,000 keyframes, auto: insertion': True,
        '100,000 keyframes, auto: opening': True,
        '100,000 keyframes, auto: recall@20': True,
        '20,000 keyframes: memory of a program': True}
    assert '| binary matching, faster than float16 | >= 3x | 2.5x | **missed** |' in (
        format_verdicts(costs))


def test_tables_have_what_was_measured(costs):
    assert '| SelaVPR | int8 | 476,288 | <= 480,000 | 483,288 | 487,288 |' in (
        format_part('bytes', costs))
    assert '| SelaVPR | binary | 24.0 | 2.5x |' in format_part('times', costs)
    assert '| good/sha/224 | walk | 200 | binary | 0.930 | 0.030 | <= 0.03 |' in (
        format_part('recalls', costs))
    assert '| 100,000 | auto | hnsw | 20.00 (1.00) |' in format_part('sizes', costs)
    assert '| 20,000 | 1900 | 500 | 1.50 | 0.20 |' in format_part('process', costs)
    text = format_part('estimates', costs)
    assert '| 1,000,000 | flat | 200.0 | 1.0 | 1 | 6.0 |' in text
    assert '71 GB (binary)' in text


def test_what_is_left_out_says_why():
    costs = MapCosts(left_out={'recalls': 'no images were given'})
    assert format_part('recalls', costs).endswith('Left out: no images were given.\n')
    assert list(verdicts(costs)) == []


def test_numbers_are_written_for_programs(costs, tmp_path):
    write_costs(tmp_path / 'map_costs.json', costs, {'python': '3'})
    found = json.loads((tmp_path / 'map_costs.json').read_text())
    assert found['sizes'][0]['search_ms'] == 0.2
    assert found['versions'] == {'python': '3'}
    assert sum(not target['is_met'] for target in found['targets']) == 4


def lines_of(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_the_picture_shows_curves_and_bars(costs):
    figure = draw_costs(costs)
    search, insertion, opening, memory, sizes, times, recalls = figure.axes
    assert lines_of(search)['flat'] == [0.2, 2.0, 20.0]
    assert lines_of(search)['target'] == [10.0, 10.0]
    assert lines_of(insertion)['target'] == [5.0, 5.0]
    assert lines_of(opening)['target'] == [10.0, 10.0]
    assert lines_of(memory)['hnsw'] == [6.0, 60.0, 600.0]
    assert {axes.get_xscale() for axes in (search, insertion, opening, memory)} == {'log'}
    assert [bar.get_height() for bar in times.patches] == [60.0, 60.0, 24.0]
    assert len(sizes.patches) == 4
    assert [bar.get_height() for bar in recalls.patches] == [
        0.96, 0.86, 0.95, 0.84, 0.93, 0.42, 0.88, 0.6]


def test_the_picture_is_drawn_of_what_there_is(costs, tmp_path):
    costs.recalls, costs.sizes = [], []
    draw_costs(costs).savefig(tmp_path / 'a.png')
    assert len(draw_costs(costs).axes) == 2
    assert math.isfinite((tmp_path / 'a.png').stat().st_size)
