from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selavpr_ros.errors import GroundTruthError
from selavpr_ros.recordings.image_folders import (
    list_images,
    position_in_name,
    read_poses,
    read_table,
)

# ---- files --------------------------------------------------------------------------------------


def test_images_are_in_the_order_of_their_numbers(write_images):
    folder = write_images('walk', ['b2.png', 'b10.png', 'b1.jpg', 'a.JPG'])
    (folder / 'notes.txt').write_text('no image')
    assert [file.name for file in list_images(folder)] == ['a.JPG', 'b1.jpg', 'b2.png', 'b10.png']


def test_hidden_files_and_folders_are_no_images(write_images):
    folder = write_images('walk', ['a.PNG', 'b.Jpeg', 'c.TIFF'])
    for name in ('._a.PNG', '.trashed-b.jpg'):
        (folder / name).write_bytes(b'Mac OS X')
    (folder / 'd.jpg').mkdir()
    assert [file.name for file in list_images(folder)] == ['a.PNG', 'b.Jpeg', 'c.TIFF']


def test_a_broken_link_is_listed_for_its_reader_to_name(write_images):
    folder = write_images('walk', ['a.png'])
    (folder / 'b.png').symlink_to(folder / 'nowhere.png')
    assert [file.name for file in list_images(folder)] == ['a.png', 'b.png']


def test_a_folder_without_images_says_what_it_wants(tmp_path, write_images):
    write_images('set/images', ['1.png'])
    with pytest.raises(
            GroundTruthError, match=r'no image in it .*; did you mean its folder images\?'):
        list_images(tmp_path / 'set')
    with pytest.raises(GroundTruthError, match='nowhere is no folder'):
        list_images(tmp_path / 'nowhere')


@pytest.mark.parametrize('text', ['a,b\n1,2\n', '1,2\n', '\ufeffb, a\n2, 1\n', 'c,b,a\n0,2,1\n\n'])
def test_tables_with_and_without_a_header(tmp_path, text):
    path = tmp_path / 'table.csv'
    path.write_text(text, encoding='utf-8')
    (row,) = read_table(path, ('a', 'b'))
    assert (row['a'], row['b']) == ('1', '2')


@pytest.mark.parametrize(('text', 'words'), [
    ('', 'is empty: it needs rows of a,b'),
    ('a,b\n', 'is empty'),
    ('a,c\n1,2\n', 'has the columns a,c: it needs a,b'),
    ('a,b\n1\n', 'line 2: 1 columns'),
])
def test_tables_that_are_none(tmp_path, text, words):
    path = tmp_path / 'table.csv'
    path.write_text(text)
    with pytest.raises(GroundTruthError, match=words):
        list(read_table(path, ('a', 'b')))


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_bytes(b'\xff\xd8\xff\xe0')
    with pytest.raises(GroundTruthError, match='table.csv cannot be read'):
        list(read_table(path, ('a', 'b')))
    with pytest.raises(GroundTruthError, match='missing.csv cannot be read: .*No such file'):
        list(read_table(tmp_path / 'missing.csv', ('a', 'b')))


# ---- poses --------------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / 'poses.csv'
        path.write_text(text)
        return path

    return write


def test_a_pose_has_its_line_and_image(table):
    (line, image, pose), (_, _, other) = read_poses(
        table('yaw_rad,image,x_m,y_m\n0.5,a.png,1,2\n-1,b.png,3,4\n'))
    assert (line, image) == (2, 'a.png')
    assert pose.tolist() == [1, 2, 0.5]
    assert other.tolist() == [3, 4, -1]


def test_a_heading_may_be_missing_and_a_pose_unknown_if_that_may_be(table):
    path = table('image,x_m,y_m\na.png,1,2\n')
    np.testing.assert_array_equal([pose for *_, pose in read_poses(path)], [[1, 2, np.nan]])
    path = table('image,x_m,y_m,yaw_rad\na.png,nan,,nan\n')
    assert all(np.isnan(pose).all() for *_, pose in read_poses(path, may_be_unknown=True))
    with pytest.raises(GroundTruthError, match='line 2: x_m,y_m,yaw_rad are nan,,nan, not all of'):
        list(read_poses(path))


@pytest.mark.parametrize('cell', ['north', 'inf'])
def test_what_is_no_number_is_named_with_its_line(table, cell):
    path = table(f'image,x_m,y_m\na.png,1,2\nb.png,1,{cell}\n')
    with pytest.raises(GroundTruthError, match=f'line 3: x_m,y_m are 1,{cell}, not all'):
        list(read_poses(path, may_be_unknown=True))


@pytest.mark.parametrize(('name', 'position'), [
    ('@0548.5@4180.25@10@S@.jpg', (548.5, 4180.25)), ('day@1@-2@.jpg', (1, -2)),
    ('@north@2@.jpg', None), ('@1@2.jpg', None), ('@1@.jpg', None), ('image_2.jpg', None)])
def test_a_name_tells_a_position(name, position):
    assert position_in_name(Path(name)) == position
