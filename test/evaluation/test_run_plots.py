"""The pictures are drawn and say what they should; how they look is for eyes."""

from __future__ import annotations

import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
from bags import image_message

from selavpr_ros.decision.gates import Decision
from selavpr_ros.evaluation.precision import precision_recall
from selavpr_ros.evaluation.run_plots import (
    Curve,
    draw_best,
    draw_curves,
    draw_similarity_matrix,
    draw_trajectory,
)
from selavpr_ros.maps.keyframe import KeyframeId
from selavpr_ros.pose import Pose
from selavpr_ros.recordings.ground_truth import PoseTruth
from selavpr_ros.recordings.pose_track import PoseTrack
from selavpr_ros.recordings.records import CandidateRecord, KeyframeRecord, QueryRecord, Run
from selavpr_ros.recordings.replay import replay

SECOND = 1_000_000_000


@pytest.fixture
def heard() -> Run:
    """What a listener knows: no descriptors, poses of the keyframes only."""
    keyframes = [KeyframeRecord(KeyframeId(1, i + 1), i * SECOND, Pose.planar(i % 4, i // 4, 0))
                 for i in range(8)]
    closure = CandidateRecord(KeyframeId(1, 2), 1 * SECOND, 0.9, 50, 0.5, Decision.ACCEPTED)
    queries = [QueryRecord(k.stamp_ns, (closure,) if k.id.keyframe_id > 5 else (), k.id)
               for k in keyframes]
    return Run('hog/1/2', queries, keyframes, images=8)


@pytest.fixture
def replayed(images, true_poses, make_recognizer) -> Run:
    run = Run()
    messages = [(ns, image_message(ns, image)) for ns, image in images]
    list(replay(messages, make_recognizer(), run, PoseTrack(true_poses)))
    return run


def _pixels(figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer)
    return cv2.imdecode(np.frombuffer(buffer.getvalue(), np.uint8), cv2.IMREAD_COLOR)


def _legend(figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def _closures(run: Run) -> int:
    return sum(query.closure is not None for query in run.queries)


def test_similarity_matrix(replayed, true_poses):
    figure = draw_similarity_matrix(replayed, PoseTruth(true_poses))
    height, width = _pixels(figure).shape[:2]
    assert (height, width) == (840, 960)
    assert figure.axes[0].get_xlabel() == 'time of the keyframe [s]'
    assert figure.axes[0].get_title() == 'Similarity of 24 queries and 24 keyframes'
    assert _legend(figure) == [f'{_closures(replayed)} true loop closures']
    (mesh,) = figure.axes[0].collections[:1]
    assert mesh.get_array().shape == (24, 24)


def test_a_long_run_is_thinned(replayed):
    replayed.queries = [
        QueryRecord(i * SECOND, (), KeyframeId(1, i + 1),
                    global_descriptor=replayed.queries[0].global_descriptor)
        for i in range(4000)
    ]
    (mesh,) = draw_similarity_matrix(replayed).axes[0].collections[:1]
    assert max(mesh.get_array().shape) <= 1500


def test_the_trajectory_is_drawn_on_the_truth_where_there_is_one(replayed, true_poses):
    assert draw_trajectory(replayed).axes[0].get_title() == 'Loop closures on the way (odometry)'
    figure = draw_trajectory(replayed, PoseTruth(true_poses, radius_m=1e-9))
    assert figure.axes[0].get_title() == 'Loop closures on the way (ground truth)'
    assert _legend(figure)[0] == '24 keyframes'
    assert f'{_closures(replayed)} false loop closures' not in _legend(figure)
    assert figure.axes[0].get_xlabel() == 'x [m]'
    _pixels(figure)


def test_false_closures_are_red(replayed, true_poses):
    straight = [(ns, Pose.planar((ns - true_poses[0][0]) * 1e-8, 0, 0)) for ns, _ in true_poses]
    figure = draw_trajectory(replayed, PoseTruth(straight))
    assert f'{_closures(replayed)} false loop closures' in _legend(figure)
    red = (_pixels(figure) == (0x1c, 0x19, 0xd7)).all(axis=2).sum()
    assert red > 100


def test_what_a_listener_heard_is_enough(heard):
    assert _legend(draw_similarity_matrix(heard)) == ['3 loop closures, truth unknown']
    figure = draw_trajectory(heard)
    assert figure.axes[0].get_title() == 'Loop closures on the way (odometry)'
    _pixels(figure)


def test_without_poses_a_time_line_says_so(replayed):
    run = Run(queries=[QueryRecord(q.stamp_ns, q.candidates) for q in replayed.queries])
    figure = draw_trajectory(run)
    assert figure.axes[0].get_title() == 'No poses: which time each loop closure leads back to'
    _pixels(figure)


def test_curves_end_precision_1_with_a_dot():
    curve = precision_recall([3.0, 2.0, 1.0], [True, False, True], 4)
    figure = draw_curves([Curve('a', curve), Curve('b', curve, 'C1', '--')], 'Two')
    assert _legend(figure) == ['a: 0.250 at precision 1', 'b: 0.250 at precision 1']
    line, dot, *_ = figure.axes[0].lines
    assert line.get_xdata().tolist() == [0, 0.25, 0.25, 0.5]
    assert line.get_ydata() == pytest.approx([1, 1, 1 / 2, 2 / 3])
    assert (dot.get_xdata(), dot.get_ydata()) == ([0.25], [1.0])
    _pixels(figure)
    _pixels(draw_curves([Curve('none', precision_recall([], [], 0))], 'None'))


def test_the_curve_of_a_run_names_its_score(replayed, true_poses):
    figure = draw_best(replayed, PoseTruth(true_poses), 12)
    assert _legend(figure) == ['local score: 1.000 at precision 1']


@pytest.mark.parametrize('draw', [draw_similarity_matrix, draw_trajectory])
def test_runs_that_are_hardly_any(draw, replayed):
    _pixels(draw(Run()))
    _pixels(draw(Run(queries=replayed.queries[:1], keyframes=replayed.keyframes[:1])))


def test_a_time_line_that_starts_again_can_be_drawn(replayed):
    replayed.queries += replayed.queries[:5]
    _pixels(draw_similarity_matrix(replayed))


def test_importing_it_sets_no_global_switch():
    code = ('import sys, selavpr_ros.evaluation.run_plots; '
            "assert 'matplotlib.pyplot' not in sys.modules")
    subprocess.run([sys.executable, '-c', code], check=True)
