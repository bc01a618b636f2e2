"""The pose graph on two drifting laps, with true and false loop closures."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from selavpr_ros.backend import pose_graph
from selavpr_ros.backend.pose_graph import Closure, Node, PoseGraph
from selavpr_ros.errors import BackendError
from selavpr_ros.maps.keyframe import SessionId
from selavpr_ros.pose import Pose, compose

pytest.importorskip('gtsam', reason='needs gtsam: pip install gtsam')

NEAR = {'abs': 0.02}
HOME = Pose.planar(0.0, 0.0, 0.0)


def optimise(drive, closures):
    graph = PoseGraph()
    for closure in closures:
        graph.close(closure)
    for node, pose in zip(drive.nodes, drive.odometry, strict=True):
        graph.add(node, pose)
    return graph.optimise()


def test_without_closures_it_is_odometry(drive):
    poses = optimise(drive, [])
    assert list(poses) == drive.nodes
    for node, pose in zip(drive.nodes, drive.odometry, strict=True):
        assert poses[node].distance_to(pose) < 1e-6
        assert poses[node].angle_to(pose) < 1e-6


def test_an_empty_graph_has_no_poses():
    graph = PoseGraph()
    graph.close(Closure(Node(SessionId(1), 1), Node(SessionId(1), 2)))
    assert graph.optimise() == {}


def test_closures_take_the_drift_away(drive):
    odometry = dict(zip(drive.nodes, drive.odometry, strict=True))
    assert drive.error(odometry) > 1.5
    assert drive.error(optimise(drive, drive.closures)) < 0.3


@pytest.mark.parametrize('share', [0.1, 0.3])
def test_false_closures_hardly_matter(drive, share):
    clean = drive.error(optimise(drive, drive.closures))
    false = drive.false_closures(round(share * len(drive.closures)))
    assert drive.error(optimise(drive, drive.closures + false)) < clean + 0.05


def test_precise_closures_are_believed_after_a_long_drift(drive):
    # By odometry each is some fifty standard deviations off.
    precise = [Closure(c.start, c.end, HOME, np.diag([0.05**2] * 3 + [0.02**2] * 3))
               for c in drive.closures]
    assert drive.error(optimise(drive, precise)) < 0.3


def test_without_the_kernels_they_would(drive, monkeypatch):
    monkeypatch.setattr(pose_graph, 'CAUCHY_K', 1e9)  # nothing is ever too far off
    monkeypatch.setattr(pose_graph, 'DCS_PHI', 1e9)
    false = drive.false_closures(round(0.1 * len(drive.closures)))
    assert drive.error(optimise(drive, drive.closures + false)) > 1.0


def test_nodes_may_come_in_any_order(drive):
    expected = optimise(drive, drive.closures)
    graph = PoseGraph()
    together = list(zip(drive.nodes, drive.odometry, strict=True))
    for node, pose in reversed(together):
        graph.add(node, pose)
    for closure in reversed(drive.closures):
        graph.close(closure)
    found = graph.optimise()
    assert list(found) == drive.nodes
    assert max(found[node].distance_to(pose) for node, pose in expected.items()) < 0.02


def two_nodes(closure_fields, odometry):
    """Poses of the second of two nodes that a closure and odometry tie together."""
    nodes = [Node(SessionId(1), stamp_ns) for stamp_ns in (1, 2)]
    graph = PoseGraph()
    for node, pose in zip(nodes, (HOME, odometry), strict=True):
        graph.add(node, pose)
    graph.close(Closure(*nodes, *closure_fields))
    return graph.optimise()[nodes[1]]


def test_a_closure_without_transform_pulls_gently():
    # By odometry 1.5 m away, +- 0.12; the closure says the same place, +- 2.
    assert 1.49 < two_nodes((), Pose.planar(1.5, 0.0, 0.0)).translation_m[0] < 1.4999


def test_a_measured_transform_wins():
    transform = Pose.planar(3.85, 0.1, 0.02)
    pose = two_nodes((transform, np.diag([4e-4] * 6)), Pose.planar(4.0, 0.0, 0.0))
    assert pose.distance_to(transform) < 0.02
    assert two_nodes((transform, np.diag([4.0] * 6)), HOME).distance_to(HOME) < 0.1


def test_the_covariance_is_in_the_frame_of_the_older_image():
    # Sure along x of the older image, which is the side of the query, and of nothing else.
    covariance = np.diag([1e-4, 1e4, 1e4, 1e4, 1e4, 1e4])
    transform = Pose.planar(3.9, 0.3, np.pi / 2)
    pose = two_nodes((transform, covariance), Pose.planar(4.0, 0.0, np.pi / 2))
    assert pose.translation_m == pytest.approx([3.9, 0.0, 0.0], **NEAR)


def test_how_many_nodes_lie_on_a_way_does_not_matter():
    ends = [Node(SessionId(1), 0), Node(SessionId(1), 1000)]
    found = []
    for between in (1, 20):
        graph = PoseGraph()
        for number in range(between + 1):
            stamp_ns = 1000 * number // between
            graph.add(Node(SessionId(1), stamp_ns), Pose.planar(4.0 * number / between, 0.0, 0.0))
        graph.close(Closure(*ends, Pose.planar(3.8, 0.0, 0.0), np.diag([0.04] * 6)))
        found.append(graph.optimise()[ends[1]].translation_m[0])
    assert found == pytest.approx([3.9, 3.9], **NEAR)


@pytest.fixture
def days(make_drive):
    """Two days on the same way; the second one's odometry begins somewhere else."""
    return make_drive(laps=1, session=1), make_drive(
        laps=1, session=2, start=Pose.planar(300.0, 50.0, 2.0))


def links(days, count):
    """Every fifth image of the second day with the same place of the first."""
    return [Closure(*pair) for pair in zip(days[0].nodes, days[1].nodes, strict=True)][::5][:count]


def add_days(graph, days, closures):
    for day in days:
        for node, pose in zip(day.nodes, day.odometry, strict=True):
            graph.add(node, pose)
    for closure in closures:
        graph.close(closure)
    return graph.optimise()


def test_closures_between_sessions_put_them_into_one_frame(days):
    poses = add_days(PoseGraph(), days, links(days, 16))
    apart = [poses[a].distance_to(poses[b])
             for a, b in zip(days[0].nodes, days[1].nodes, strict=True)]
    assert max(apart) < 0.5
    assert poses[days[0].nodes[0]].distance_to(days[0].odometry[0]) < 0.01


def test_two_closures_are_not_enough_to_link_a_session(days):
    assert set(add_days(PoseGraph(), days, links(days, 2))) == set(days[0].nodes)
    assert len(add_days(PoseGraph(), days, links(days, 3))) == 2 * len(days[0].nodes)


def test_false_closures_between_sessions_are_outvoted(days):
    first, second = days
    false = [Closure(first.nodes[i], second.nodes[(i * 7 + 40) % 80]) for i in range(0, 60, 10)]
    poses = add_days(PoseGraph(), days, false + links(days, 8))
    apart = [poses[a].distance_to(poses[b]) for a, b in zip(first.nodes, second.nodes,
                                                           strict=True)]
    assert np.median(apart) < 1.0


def test_a_session_with_map_poses_stays_and_draws_the_other_to_it(days):
    first, second = days
    moved = Pose.planar(-7.0, 2.0, 1.0)
    graph = PoseGraph()
    for node, pose in zip(first.nodes, first.true, strict=True):
        graph.fix(node, compose(moved, pose))
    poses = add_days(graph, [second], links(days, 16))
    assert set(poses) == set(second.nodes)
    off = [poses[node].distance_to(compose(moved, pose))
           for node, pose in zip(second.nodes, second.true, strict=True)]
    assert np.mean(off) < 0.6


def test_a_map_that_nothing_links_to_leaves_no_poses(days):
    graph = PoseGraph()
    graph.fix(days[0].nodes[0], HOME)
    assert add_days(graph, [days[1]], []) == {}


def test_without_gtsam_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gtsam', None)
    with pytest.raises(BackendError, match=r"pip install 'selavpr_ros\[backend\]'"):
        PoseGraph()


def test_a_gtsam_that_would_crash_is_refused(monkeypatch):
    monkeypatch.setattr(pose_graph, 'version', lambda _: '4.2')
    monkeypatch.setattr(np, '__version__', '2.2.6')
    with pytest.raises(BackendError, match=r"crashes with numpy 2\.2\.6: pip install 'numpy<2'"):
        PoseGraph()
    monkeypatch.setattr(np, '__version__', '1.26.4')
    PoseGraph()


def test_nothing_is_printed():
    code = ('from selavpr_ros.backend.pose_graph import *;'
            'graph, nodes = PoseGraph(), [Node(SessionId(1), i) for i in range(3)];'
            '[graph.add(nodes[i], Pose.planar(9.0 * i, 0.0, 3.0 * i)) for i in range(3)];'
            '[graph.close(Closure(nodes[i], nodes[2])) for i in range(2)]; graph.optimise()')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
