"""`vpr map-info`: its figures, its picture, and that it leaves the map alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import laps
import numpy as np
import pytest
import torch
from maps import MODEL, make_keyframe

from selavpr_ros.cli import map_info
from selavpr_ros.cli.main import main
from selavpr_ros.images.preprocess import make_thumbnail
from selavpr_ros.maps.file.map_file import MapFile
from selavpr_ros.maps.file.schema import Manifest
from selavpr_ros.maps.fleet.milvus_connection import Address
from selavpr_ros.maps.fleet.milvus_store import MilvusStore
from selavpr_ros.maps.keyframe import (
    Keyframe,
    KeyframeId,
    MapPose,
    NewKeyframe,
    Session,
    SessionId,
)
from selavpr_ros.maps.local_codec import encode
from selavpr_ros.pose import Pose

SECOND = 1_000_000_000
MANIFEST = Manifest('0123456789abcdef', 'hog/1/area96x128', 'int8', 'a test', laps.START_NS)
MORNING = Session(SessionId(1), 'morning', laps.START_NS, 'odom', MANIFEST.model_id)
OTHER = Session(SessionId(2, 7), '', laps.START_NS + 3600 * SECOND, 'wheels', MANIFEST.model_id,
                'fedcba9876543210/7/1')


def keyframe(session: Session, number: int, *, with_all: bool = True) -> NewKeyframe:
    """The n-th keyframe of a session, 50 s after the one before."""
    new = NewKeyframe(Keyframe(
        KeyframeId(session.id.session_id, number, session.id.robot_id),
        session.started_ns + 50 * (number - 1) * SECOND, np.ones(4, np.float32) / 2, None, 0.0),
        session)
    if not with_all:
        return new
    pose = Pose.planar(number, 0, 0)
    moved = MapPose('map', pose) if number == 1 else None
    return replace(
        new, keyframe=replace(new.keyframe, pose=pose, map_pose=moved),
        local=encode(torch.eye(3), 'int8'), thumbnail=make_thumbnail(laps.picture(number)))


@pytest.fixture
def office(tmp_path) -> Path:
    """Three keyframes of one robot, two of another whose map was merged."""
    path = tmp_path / 'maps' / 'office.vprmap'
    path.parent.mkdir()
    with MapFile(path, MANIFEST) as file:
        file.add([*(keyframe(MORNING, number) for number in (1, 2, 3)),
                  *(keyframe(OTHER, number, with_all=False) for number in (1, 2))])
    return path


def info(capsys, *words: object) -> str:
    assert main(['map-info', *map(str, words)]) == 0
    return capsys.readouterr().out


def test_what_it_prints(office, capsys):
    lines = info(capsys, office).splitlines()
    nbytes = office.stat().st_size
    jpegs = sum(len(make_thumbnail(laps.picture(number))) for number in (1, 2, 3))
    assert lines[1:] == [
        'model             hog/1/area96x128',
        'codec             int8 (of local features)',
        'created           2023-11-14 22:13:20 UTC by a test',
        'uuid              0123456789abcdef',
        'keyframes         5',
        '  descriptors     5, 80 bytes, 16 bytes each',
        '  local features  3, 27 bytes, 9 bytes each',
        f'  thumbnails      3, {jpegs / 1e3:.1f} kB, {jpegs / 3e3:.1f} kB each',
        '',
        'id  robot  label    start (UTC)          duration  frame   keyframes  with pose  '
        'optimised  origin',
        ' 1      0  morning  2023-11-14 22:13:20  0:01:40   odom            3          3  '
        '        1  01234567/1',
        ' 2      7  -        2023-11-14 23:13:20  0:00:50   wheels          2          0  '
        '        0  fedcba98/7/1']
    assert lines[0] == (f'map               {office}, {nbytes / 1e3:.1f} kB, '
                        f'{nbytes / 5e3:.1f} kB per keyframe')


def test_json(office, capsys):
    facts = json.loads(info(capsys, office, '--json'))
    assert facts['file_bytes'] == office.stat().st_size
    assert {facts[name] for name in ('uuid', 'model_id', 'codec', 'creator', 'created_ns')} == {
        MANIFEST.uuid, MANIFEST.model_id, 'int8', 'a test', laps.START_NS}
    assert facts['contents']['local_features'] == {'count': 3, 'bytes': 27}
    assert facts['sessions'] == [
        {'id': '1', 'robot_id': 0, 'session_id': 1, 'label': 'morning',
         'started_ns': laps.START_NS, 'last_ns': laps.START_NS + 100 * SECOND, 'frame': 'odom',
         'model_id': MANIFEST.model_id, 'keyframes': 3, 'with_pose': 3, 'with_map_pose': 1,
         'origin': f'{MANIFEST.uuid}/1'},
        {'id': '7/2', 'robot_id': 7, 'session_id': 2, 'label': '',
         'started_ns': OTHER.started_ns, 'last_ns': OTHER.started_ns + 50 * SECOND,
         'frame': 'wheels', 'model_id': MANIFEST.model_id, 'keyframes': 2, 'with_pose': 0,
         'with_map_pose': 0, 'origin': 'fedcba9876543210/7/1'}]


def test_an_empty_map_and_an_empty_session(tmp_path, capsys):
    with MapFile(tmp_path / 'a', MANIFEST) as file:
        assert 'keyframes         0\n  descriptors     none\n' in info(capsys, tmp_path / 'a')
        file.add([keyframe(MORNING, 1)])
        file.remove([KeyframeId(1, 1)])
    assert 'morning  2023-11-14 22:13:20  0:00:00   odom           0' in info(
        capsys, tmp_path / 'a')


# ---- the picture -------------------------------------------------------------------------------


def test_the_picture_shows_the_thumbnails_in_their_order(office, tmp_path, capsys):
    info(capsys, office, '--thumbnails', tmp_path / 'sheet.png')
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))[:, :, ::-1].astype(int)
    # Title and one session, as only three keyframes have a thumbnail.
    top = map_info.MARGIN + 2 * map_info.LINE + map_info.GAP
    for column, number in enumerate((1, 2, 3)):
        left = map_info.MARGIN + column * (160 + map_info.GAP)
        jpeg = np.frombuffer(make_thumbnail(laps.picture(number)), np.uint8)
        wanted = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)
        shown = sheet[top : top + 120, left : left + 160]
        assert np.abs(shown - wanted)[4:-4, 4:-4].mean() < 8
    assert sheet[top:, map_info.MARGIN + 3 * (160 + map_info.GAP) :].min() == 255


def test_the_picture_of_many_keyframes_is_of_all_the_map(tmp_path):
    sessions = [replace(MORNING, id=SessionId(n), label=f'${n} $x_', origin='') for n in range(20)]
    with MapFile(tmp_path / 'a', MANIFEST) as file:
        file.add([keyframe(session, number) for session in sessions for number in range(1, 11)])
        figure = map_info.draw_contact_sheet(file)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:3] == ['a: 200 keyframes of hog/1/area96x128',
                         'session 0  $0 $x_  2023-11-14 22:13:20 UTC, 10 keyframes',
                         'session 1  $1 $x_  2023-11-14 22:13:20 UTC, 10 keyframes']
    assert texts[11] == '... and 10 more sessions'
    captions = texts[12:]
    assert len(captions) == map_info.PICTURES
    assert (captions[0], captions[1], captions[-1]) == (
        '0:1   +0:00:00', '0:5   +0:03:20', '19:6   +0:04:10')
    figure.savefig(tmp_path / 'sheet.png')
    height, width = cv2.imread(str(tmp_path / 'sheet.png')).shape[:2]
    assert (height, width) == (
        2 * map_info.MARGIN + 12 * map_info.LINE + map_info.GAP + 6 * (120 + map_info.CAPTION),
        2 * map_info.MARGIN + 8 * (160 + map_info.GAP) - map_info.GAP)


def test_a_thumbnail_that_cannot_be_read_is_grey(tmp_path):
    with MapFile(tmp_path / 'a', MANIFEST) as file:
        file.add([replace(keyframe(MORNING, 1), thumbnail=b'\xff\xd8 no jpeg')])
        map_info.draw_contact_sheet(file).savefig(tmp_path / 'sheet.png')
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))
    assert (sheet[map_info.MARGIN + 3 * map_info.LINE + 60, map_info.MARGIN + 80] == 128).all()


@pytest.mark.parametrize(('picture', 'words'), [
    ('sheet.vprmap', 'sheet.vprmap: the picture cannot be written: Format'),
    ('none/sheet.png', 'sheet.png: the picture cannot be written: '),
])
def test_a_picture_that_cannot_be_written(office, tmp_path, capsys, picture, words):
    assert main(['map-info', str(office), '--thumbnails', str(tmp_path / picture)]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count('\n') == 1


def test_a_map_without_thumbnails(tmp_path, capsys):
    with MapFile(tmp_path / 'a', MANIFEST) as file:
        file.add([keyframe(OTHER, 1, with_all=False)])
    assert main(['map-info', str(tmp_path / 'a'), '--thumbnails', str(tmp_path / 'b.png')]) == 1
    assert 'a: it holds no thumbnails: only map files have them' in capsys.readouterr().err
    assert not (tmp_path / 'b.png').exists()


# ---- it only reads -----------------------------------------------------------------------------


def test_while_a_node_writes(office, tmp_path, capsys):
    with MapFile(office) as writer:
        writer.add([keyframe(MORNING, 4)])
        assert json.loads(info(capsys, office, '--json'))['keyframes'] == 6
        assert 'keyframes         6' in info(
            capsys, office, '--thumbnails', tmp_path / 'sheet.png')
        writer.add([keyframe(MORNING, 5)])
        facts = json.loads(info(capsys, office, '--json'))
        assert facts['keyframes'] == 7
        assert facts['file_bytes'] > office.stat().st_size  # the log is not yet in the file


def test_the_file_stays_as_it_is(office, tmp_path, capsys):
    before = hashlib.sha256(office.read_bytes()).digest(), office.stat().st_mtime_ns
    info(capsys, office, '--thumbnails', tmp_path / 'sheet.png')
    assert (hashlib.sha256(office.read_bytes()).digest(), office.stat().st_mtime_ns) == before


def test_in_a_folder_that_cannot_be_written(office, tmp_path):
    """As anyone; root gives up what would let it write all the same."""
    command = [sys.executable, '-m', 'selavpr_ros.cli.main', 'map-info', str(office),
               '--thumbnails', str(tmp_path / 'sheet.png')]
    if os.geteuid() == 0:
        if not shutil.which('setpriv'):
            pytest.skip('root needs setpriv to be refused anything')
        rights = '-dac_override,-dac_read_search'
        command = ['setpriv', f'--inh-caps={rights}', f'--bounding-set={rights}', *command]
    office.chmod(0o444)
    office.parent.chmod(0o555)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        left = [path.name for path in office.parent.iterdir()]
    finally:
        office.parent.chmod(0o755)
    assert (done.returncode, done.stderr) == (0, '')
    assert 'morning' in done.stdout
    assert left == ['office.vprmap']
    assert (tmp_path / 'sheet.png').exists()


# ---- what is no map ----------------------------------------------------------------------------


def _cut(path: Path) -> None:
    with path.open('r+b') as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize(('spoil', 'words'), [
    (lambda path: path.unlink(), 'there is no such map'),
    (lambda path: path.write_text('no map at all' * 100), 'a file of another program'),
    (lambda path: path.write_bytes(b''), 'it is empty'),
    (_cut, 'go back to a copy of it'),
])
def test_what_cannot_be_read_is_one_line(office, capsys, spoil, words):
    spoil(office)
    assert main(['map-info', str(office)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f'vpr map-info: {office}: ')
    assert words in error
    assert error.count('\n') == 1


def test_a_map_that_robots_share(tmp_path, capsys):
    folder = f'milvus://{tmp_path}/fleet.db'
    with closing(MilvusStore(
            Address.parse(folder), model_id=MODEL, dim=32, codec='float16')) as store:
        store.add([
            NewKeyframe(new.keyframe, replace(new.session, origin=f'0123456789/{robot}.{session}'))
            for robot, session, number in ((3, 1, 1), (3, 2, 1), (3, 2, 2), (1, 1, 1))
            for new in [make_keyframe(number, session, robot)]])
    assert main(['map-info', folder]) == 0
    said = capsys.readouterr().out
    assert f"map        map 'selavpr' on {tmp_path}/fleet.db" in said
    assert f'model      {MODEL}' in said
    rows = [line.split() for line in said.splitlines()[-3:]]
    assert [(row[1], row[0], row[-4], row[-1]) for row in rows] == [
        ('1', '1', '1', '01234567/1.1'), ('3', '1', '1', '01234567/3.1'),
        ('3', '2', '2', '01234567/3.2')]
    assert main(['map-info', folder, '--json']) == 0
    assert json.loads(capsys.readouterr().out)['keyframes'] == 4
    assert main(['map-info', f'{folder}#other']) == 1
    assert 'there is no such map' in capsys.readouterr().err
    assert main(['map-info', folder, '--thumbnails', 'x.png']) == 1
    assert 'only map files have them, and only of keyframes added while map.thumbnails is on' in (
        capsys.readouterr().err)
