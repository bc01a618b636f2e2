"""Records of runs that become one trajectory with its error, and its picture."""

from __future__ import annotations

import pytest

from selavpr_ros.backend.offline import optimise_runs
from selavpr_ros.backend.picture import draw_trajectories
from selavpr_ros.backend.pose_graph import Closure
from selavpr_ros.decision.gates import Decision
from selavpr_ros.maps.keyframe import KeyframeId
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import PoseTruth
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import CandidateRecord, KeyframeRecord, QueryRecord, Run

pytest.importorskip('gtsam', reason='needs gtsam: pip install gtsam')


def candidate(node, decision=Decision.ACCEPTED):
    match_id = KeyframeId(node.session.session_id, 1)
    return CandidateRecord(match_id, node.stamp_ns, 0.9, 100, 0.5, decision)


def run_of(drive, closures, with_poses=True):
    """Records as a replay, or without poses as a live run, makes them."""
    matched = {closure.end: (candidate(closure.start),) for closure in closures}
    poses = drive.odometry if with_poses else [None] * len(drive.odometry)
    queries = [QueryRecord(node.stamp_ns, matched.get(node, ()), pose=pose)
               for node, pose in zip(drive.nodes, poses, strict=True)]
    first = drive.nodes[0]
    kept = KeyframeRecord(KeyframeId(first.session.session_id, 1), first.stamp_ns)
    return Run(queries=queries, keyframes=[kept], knows_poses=with_poses)


def truth_of(*drives):
    return PoseTruth([(node.stamp_ns, pose) for drive in drives
                      for node, pose in zip(drive.nodes, drive.true, strict=True)])


def test_a_run_tells_its_error_before_and_after(drive):
    optimised = optimise_runs([run_of(drive, drive.closures)], truth_of(drive))
    odometry = dict(zip(drive.nodes, drive.odometry, strict=True))
    assert optimised.error_before_m == pytest.approx(drive.error(odometry))
    assert optimised.error_after_m == pytest.approx(drive.error(optimised.poses))
    assert optimised.error_after_m < 0.3 < 1.5 < optimised.error_before_m
    assert str(optimised).endswith(' m with 80 loop closures')
    assert optimised.optimised.shape == optimised.odometry.shape == optimised.true.shape


def test_rejected_candidates_are_no_closures(drive):
    run = run_of(drive, [])
    rejected = (candidate(drive.nodes[0], Decision.REJECT_UNSURE),)
    run.queries[-1] = QueryRecord(drive.nodes[-1].stamp_ns, rejected, pose=drive.odometry[-1])
    optimised = optimise_runs([run], truth_of(drive))
    assert optimised.closures == 0
    assert optimised.error_after_m == pytest.approx(optimised.error_before_m)


def test_a_live_run_takes_its_poses_from_odometry(drive):
    track = PoseTrack(zip([node.stamp_ns for node in drive.nodes], drive.odometry, strict=True))
    closures = drive.closures
    expected = optimise_runs([run_of(drive, closures)], truth_of(drive))
    found = optimise_runs([run_of(drive, closures, with_poses=False)], truth_of(drive), track)
    assert found.error_after_m == pytest.approx(expected.error_after_m)


def test_a_second_day_is_laid_into_the_frame_of_the_first(make_drive):
    days = make_drive(1, 1), make_drive(1, 2, start=Pose.planar(40.0, 9.0, 3.0))
    links = [Closure(*pair) for pair in zip(days[0].nodes, days[1].nodes, strict=True)]
    runs = [run_of(days[0], []), run_of(days[1], links)]
    linked = optimise_runs(runs, truth_of(*days))
    assert (linked.closures, linked.unlinked, len(linked.poses)) == (80, 0, 160)
    assert linked.error_before_m < 2.0  # its own frame is no error
    assert linked.error_after_m < 1.5
    apart = optimise_runs([runs[0], run_of(days[1], links[:2])], truth_of(*days))
    assert (apart.unlinked, len(apart.poses)) == (1, 80)
    assert str(apart).endswith('; 1 sessions not linked')
    draw_trajectories(linked)


def test_without_odometry_or_truth_it_says_so(drive):
    assert str(optimise_runs([Run()])) == 'unknown: no odometry'
    assert str(optimise_runs([run_of(drive, [], with_poses=False)])) == 'unknown: no odometry'
    two = PoseTruth([(drive.nodes[i].stamp_ns, drive.true[i]) for i in (0, 1)])
    for truth in (None, PoseTruth([]), two):
        optimised = optimise_runs([run_of(drive, drive.closures)], truth)
        assert str(optimised) == 'unknown: no truth'
        assert optimised.error_after_m is None
        assert len(optimised.optimised) == len(drive.nodes)


def labels(figure):
    (axes,) = figure.axes
    return [line.get_label() for line in axes.get_lines()]


def test_the_picture_shows_three_ways_and_their_errors(drive, tmp_path):
    optimised = optimise_runs([run_of(drive, drive.closures)], truth_of(drive))
    figure = draw_trajectories(optimised)
    assert labels(figure) == [
        'truth', f'odometry: {optimised.error_before_m:.2f} m off',
        f'with 80 loop closures: {optimised.error_after_m:.2f} m off']
    figure.savefig(tmp_path / 'trajectories.png')
    assert (tmp_path / 'trajectories.png').stat().st_size > 10_000


def test_the_picture_does_without_truth_and_without_anything(drive):
    assert labels(draw_trajectories(optimise_runs([run_of(drive, drive.closures)]))) == [
        'odometry', 'with 80 loop closures']
    assert len(labels(draw_trajectories(optimise_runs([Run()])))) == 2
