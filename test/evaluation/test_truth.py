from __future__ import annotations

import math

import numpy as np
import pytest

from selavpr_ros.errors import GroundTruthError
from selavpr_ros.evaluation.truth import (
    EvaluationSet,
    read_frames,
    read_msls,
    read_pairs,
    read_positions,
)
from selavpr_ros.recordings.ground_truth import SamePlace
from selavpr_ros.recordings.image_folders import read_placed_images

NAMES = [f'image_{number}.png' for number in range(12)]


def made(positives, database=4, excluded=()):
    images = np.zeros((max(database, len(positives)), 2, 2, 3), np.uint8)
    return EvaluationSet('made', SamePlace(is_marked=True),
                         images[:database], images[: len(positives)],
                         positives, excluded)


# ---- the set ------------------------------------------------------------------------------------


def test_queries_without_a_positive_are_not_answerable():
    assert made([[1], [], [0, 3]]).answerable == [0, 2]
    assert made([[1], [], [0, 3]]).unanswerable == [1]


def test_what_is_compared_with_nothing_is_not_asked():
    excluded = [range(4), range(0, 3), range(0, 2)]
    assert made([[], [], [3]], excluded=excluded).unanswerable == [1]


def test_excluded_images_are_neither_compared_nor_right():
    asked = made([[1, 3], [2], [3]], excluded=[range(1, 3), range(2, 3), range(0)])
    assert asked.positives == ((3,), (), (3,))
    assert asked.answerable == [0, 2]
    assert asked.comparable(0).tolist() == [0, 3]
    assert asked.comparable(2).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(('positives', 'excluded', 'words'), [
    ([[4]], (), 'query 0 has the positive 4, but there are 4 database images'),
    ([[-1]], (), 'has the positive -1'),
    ([[], []], (), r'none of 2 queries has a positive in the database \(marked pairs\)'),
    ([[1]], [range(0, 4)], 'none of 1 queries'),
    ([], (), 'none of 0 queries'),
    ([[1]], [range(0), range(0)], '1 queries, but 1 lists of positives and 2 ranges'),
])
def test_sets_that_ask_nothing_sensible(positives, excluded, words):
    with pytest.raises(GroundTruthError, match=words):
        made(positives, excluded=excluded)


# ---- frames -------------------------------------------------------------------------------------


def test_frames_within_the_tolerance_nearest_first(write_images):
    asked = read_frames(write_images('left', NAMES), write_images('right', NAMES), 2)
    assert asked.name == 'right-left'
    assert str(asked.same_place) == 'within 2 frames'
    assert asked.positives[5] == (5, 4, 6, 3, 7)
    assert asked.positives[0] == (0, 1, 2)
    assert len(asked.answerable) == 12
    assert asked.comparable(5).tolist() == list(range(12))
    assert asked.queries[3].parent.name == 'right'


def test_the_number_in_the_name_counts_where_both_folders_have_it(write_images):
    """Nordland: every frame of one season, every fifth of the other."""
    summer = write_images('summer', [f'images-{number:05}.png' for number in range(1, 31)])
    winter = write_images('winter', [f'images-{number:05}.png' for number in (2, 12, 17, 40)])
    asked = read_frames(summer, winter, 1)
    assert asked.positives == ((1, 0, 2), (11, 10, 12), (16, 15, 17), ())
    assert asked.answerable == [0, 1, 2]
    assert asked.database[11].name == 'images-00012.png'
    other_way = read_frames(winter, summer, 0)
    assert {query: other_way.positives[query] for query in other_way.answerable} == {
        1: (0,), 11: (1,), 16: (2,)}


@pytest.mark.parametrize('names', [
    [f'{1700000000 + number}.png' for number in range(12)],      # stamps: none in both
    [f'17{number:02}.{number}50.png' for number in range(12)],   # two numbers in a name
    [f'place_{number // 2}{"ab"[number % 2]}.png' for number in range(12)],  # numbers twice
    list('abcdefghijkl'),                                        # no numbers at all
])
def test_without_such_numbers_the_nth_image_is_frame_n(write_images, names):
    files = [name if '.' in name else f'{name}.png' for name in names]
    left, right = write_images('left', NAMES), write_images('right', files)
    assert read_frames(left, right, 1).positives[4] == (4, 3, 5)
    (right / files[-1]).unlink()
    with pytest.raises(GroundTruthError, match='left has 12 images and .*right has 11, and their '
                                               'names have no common frame numbers'):
        read_frames(left, right)


def test_a_folder_against_itself(write_images):
    left = write_images('left', NAMES)
    with pytest.raises(GroundTruthError, match='every image would find itself'):
        read_frames(left, left / '../left')


# ---- pairs --------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    def write(*rows: str):
        path = tmp_path / 'loops.csv'
        path.write_text('\n'.join(('image_a,image_b', *rows)))
        return path

    return write


def test_every_image_asks_for_those_before_it(write_images, pairs):
    images = write_images('corridor/images', NAMES)
    asked = read_pairs(images, pairs('8,1', '2,9', '9,3', '9,1', '9,2', '12,9'), exclude=3)
    assert asked.name == 'corridor'
    assert asked.queries is asked.database
    # 12 and 9 are three apart: that one is too recent. The middle of 1, 2, 3 comes first.
    assert {q: asked.positives[q] for q in asked.answerable} == {7: (0,), 8: (1, 0, 2)}
    assert asked.comparable(8).tolist() == [0, 1, 2, 3, 4]
    assert asked.comparable(2).tolist() == []


@pytest.mark.parametrize('row', ['13,1', '0,1', 'a,1', '3.5,1', '-3,1'])
def test_pairs_of_images_that_are_not_there(write_images, pairs, row):
    with pytest.raises(GroundTruthError, match=f'line 2: {row} are not two of the images 1 to 12'):
        read_pairs(write_images('images', NAMES), pairs(row))


def test_pairs_that_are_all_too_recent(write_images, pairs):
    with pytest.raises(GroundTruthError, match='earlier than the 10 newest images.*exclude fewer'):
        read_pairs(write_images('images', NAMES), pairs('5,1'))


# ---- positions ----------------------------------------------------------------------------------


@pytest.fixture
def walk(write_images):
    """Write a folder with a poses.csv: image n is at (x, y) with this yaw in degrees."""

    def write(folder, *poses, header='image,x_m,y_m,yaw_rad\n', images='images'):
        path = write_images(f'{folder}/{images}', NAMES[: len(poses)])
        root = path if images == '.' else path.parent
        rows = [f'{name},{x},{y}' + ''.join(f',{math.radians(yaw)}' for yaw in yaws)
                for name, (x, y, *yaws) in zip(NAMES, poses, strict=False)]
        (root / 'poses.csv').write_text(header + '\n'.join(rows))
        return root

    return write


def test_within_the_radius_and_looking_the_same_way(walk):
    database = walk('map', (0, 0, 170), (3, 4, 170), (3, 4.01, 170), (1, 0, -146), (1, 0, -144))
    asked = read_positions(database, walk('drive', (0, 0, 170)))
    assert asked.name == 'drive-map'
    assert str(asked.same_place) == 'within 5 m and 45 deg'
    assert asked.positives == ((0, 3, 1),)
    every_heading = read_positions(database, walk('drive', (0, 0, 170)), heading_rad=math.pi)
    assert every_heading.positives == ((0, 3, 4, 1),)
    near = read_positions(database, walk('drive', (0, 0, 170)), radius_m=1.5)
    assert near.positives == ((0, 3),)


@pytest.mark.parametrize('header', ['', 'image,x_m,y_m,yaw_rad\n'])
@pytest.mark.parametrize('images', ['.', 'images'])
def test_a_recording_against_itself(walk, header, images):
    folder = walk('walk', *[(x, 0, 0) for x in range(12)], header=header, images=images)
    asked = read_positions(folder, radius_m=3.0, exclude=2)
    assert asked.queries is asked.database
    assert asked.positives[5] == (2, 8)
    assert asked.comparable(5).tolist() == [0, 1, 2, 8, 9, 10, 11]
    assert str(asked.same_place) == 'within 3 m and 45 deg, 2 images on either side excluded'
    neighbours = read_positions(folder, folder, exclude=0)
    assert neighbours.queries is neighbours.database
    assert neighbours.comparable(5).tolist() == [*range(5), *range(6, 12)]
    assert str(neighbours.same_place) == 'within 5 m and 45 deg, the query itself excluded'
    # In the order of the rows, which is not that of the letters.
    assert [file.name for file in asked.database] == NAMES


def test_a_recording_that_never_comes_back(walk):
    with pytest.raises(GroundTruthError, match='none of 12 queries.*10 images on either side'):
        read_positions(walk('walk', *[(3 * x, 0, 0) for x in range(12)]))


def test_positions_without_headings(walk):
    folder = walk('walk', (0, 0), (1, 0), header='image,x_m,y_m\n')
    assert read_placed_images(folder).yaw_rad is None
    assert str(read_positions(folder, exclude=0).same_place).startswith('within 5 m, ')
    with pytest.raises(GroundTruthError, match='positions without headings'):
        read_positions(folder, exclude=0, heading_rad=1.0)


def test_positions_in_the_names_of_published_sets(write_images):
    names = ['@0583000.00@4477000.00@17@T@40.4@-80.0@pano@00@@@@2010@@.jpg',
             '@0583024.90@4477000.00@17@T@40.4@-80.0@pano@30@@@@2010@@.jpg',
             '@0583025.10@4477000.00@17@T@40.4@-80.0@pano@60@@@@2010@@.jpg']
    database, queries = write_images('database', names), write_images('queries', names[:1])
    asked = read_positions(database, queries)
    assert str(asked.same_place) == 'within 25 m'
    assert asked.positives == ((0, 1),)
    assert read_positions(database, queries, radius_m=30).positives == ((0, 1, 2),)


@pytest.mark.parametrize(('text', 'words'), [
    ('image,x_m,y_m\nimage_0.png,1,x\n', 'line 2: x_m,y_m are 1,x, not all of them numbers'),
    ('image,x_m,y_m\nimage_0.png,1,nan\n', 'not all of them numbers'),
    ('image,x_m,y_m\nimage_99.png,1,2\n', "line 2: no image 'image_99.png' in"),
    ('image,east,north\nimage_0.png,1,2\n', 'has the columns image,east,north: it needs image,x'),
    ('', 'is empty'),
])
def test_poses_that_are_none(write_images, text, words):
    folder = write_images('walk', NAMES)
    (folder / 'poses.csv').write_text(text)
    with pytest.raises(GroundTruthError, match=words):
        read_positions(folder)


def test_folders_without_positions(write_images, tmp_path):
    with pytest.raises(GroundTruthError, match='neither a file poses.csv .*image_0.png'):
        read_positions(write_images('walk', NAMES))
    with pytest.raises(GroundTruthError, match='nowhere is no folder'):
        read_positions(tmp_path / 'nowhere')


# ---- Mapillary Street-Level Sequences -----------------------------------------------------------


MSLS_ROWS = {
    'database': [('near', 0, 0, False, True), ('edge', 25, 0, False, True),
                 ('pano', 1, 0, True, True), ('far', 25.1, 0, False, True)],
    'query': [('q1', 0, 0, False, True), ('q2', 0, 0, True, True), ('q3', 1, 0, False, False),
              ('q4', 1000, 0, False, True)],
}


@pytest.fixture
def city(write_images, tmp_path):
    """A city with a panorama in both folders, and one query that is of no subtask."""
    for side, rows in MSLS_ROWS.items():
        folder = write_images(f'cph/{side}/images', [f'{row[0]}.jpg' for row in rows]).parent
        tables = {
            'postprocessed': (
                ',key,easting,northing,unique_cluster,control_panel,night,view_direction',
                [f'{key},{500000 + x},{6100000 + y},3,False,False,Forward'
                 for key, x, y, _, _ in rows]),
            'raw': (',key,lon,lat,ca,captured_at,pano',
                    [f'{key},12.5,55.7,180.0,2018-05-01,{pano}' for key, _, _, pano, _ in rows]),
            'subtask_index': (',key,all,s2w', [f'{key},{used},False' for key, *_, used in rows])}
        for name, (head, lines) in tables.items():
            numbered = [f'{number},{line}' for number, line in enumerate(lines)]
            (folder / f'{name}.csv').write_text('\n'.join([head, *numbered]) + '\n')
    return tmp_path / 'cph'


def test_a_city_by_the_published_protocol(city):
    asked = read_msls(city)
    assert (asked.name, str(asked.same_place)) == ('msls-cph', 'within 25 m')
    assert [image.stem for image in asked.database] == ['near', 'edge', 'far']
    assert [image.stem for image in asked.queries] == ['q1', 'q4']
    assert asked.positives == ((0, 1), ())
    assert read_msls(city, 26.0).positives == ((0, 1, 2), ())
    (city / 'query/subtask_index.csv').unlink()
    assert [image.stem for image in read_msls(city).queries] == ['q1', 'q3', 'q4']


def test_cities_that_are_none(city):
    (city / 'query/images/q1.jpg').unlink()
    with pytest.raises(GroundTruthError, match='1 of 2 images of .*query/postprocessed.csv are '
                                               'missing, .*q1.jpg is the first: unpack'):
        read_msls(city)
    raw = city / 'query/raw.csv'
    raw.write_text(raw.read_text().replace('False', 'True'))
    with pytest.raises(GroundTruthError, match='names no image that counts: all are panoramas'):
        read_msls(city)
    raw.unlink()
    with pytest.raises(GroundTruthError, match='query/raw.csv cannot be read'):
        read_msls(city)


# ---- the public sets ----------------------------------------------------------------------------


def test_the_public_sets_have_the_known_sizes(shared):
    data = shared / 'data'
    gardens = read_frames(data / 'gardenspoint/day_left', data / 'gardenspoint/day_right')
    corridor = read_pairs(data / 'rtabmap_loop/images', data / 'rtabmap_loop/loops.csv')
    campus = read_positions(data / 'campus_keyframes', exclude=0)
    sizes = [(len(s.database), len(s.queries), len(s.answerable))
             for s in (gardens, corridor, campus)]
    assert sizes == [(200, 200, 200), (84, 84, 44), (72, 72, 72)]
