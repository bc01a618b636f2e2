import numpy as np
import pytest

from selavpr_ros.simulation import DriveSettings, Route, drive, take_images
from selavpr_ros.simulation.robot import measure


def test_stamps_increase_and_odometry_surrounds_the_images(two_laps):
    assert two_laps.stamps_ns[0] > 0
    assert (np.diff(two_laps.stamps_ns) == 20_000_000).all()
    assert (np.diff(two_laps.image_stamps_ns) > 0).all()
    assert two_laps.stamps_ns[0] < two_laps.image_stamps_ns[0]
    assert two_laps.image_stamps_ns[-1] <= two_laps.stamps_ns[-1]


def test_second_lap_runs_beside_the_first(town, two_laps):
    first, second = (two_laps.true_poses[two_laps.laps == lap, :2] for lap in (0, 1))
    settled = second[len(second) // 3 :]

    apart = [np.hypot(*(first - point).T).min() for point in settled]

    assert 0.4 < np.median(apart) < 1.0


def test_odometry_is_right_over_a_metre_and_wrong_over_a_lap(town):
    trajectory = drive(town.route, DriveSettings(laps=2), seed=0)
    true, odometry = trajectory.true_poses, trajectory.odometry_poses
    steps = np.arange(0, len(true) - 50, 50)

    def travelled(poses):
        return np.hypot(*(poses[steps + 50, :2] - poses[steps, :2]).T)

    np.testing.assert_allclose(travelled(odometry), travelled(true), rtol=0.06)
    end = true[-1, :2] - true[0, :2]
    start_yaw = true[0, 2]
    turn = np.array(
        [[np.cos(start_yaw), -np.sin(start_yaw)], [np.sin(start_yaw), np.cos(start_yaw)]]
    )
    assert np.hypot(*(turn @ odometry[-1, :2] - end)) > 0.5


def test_perfect_odometry_repeats_the_truth():
    perfect = DriveSettings(
        scale_error=0.0, heading_drift_rad_per_m=0.0, position_noise_m=0.0, heading_noise_rad=0.0
    )
    angles = np.linspace(0.0, 6.0, 5000)
    circle = np.column_stack([np.sin(angles) * 9, 9 - np.cos(angles) * 9, angles])

    measured = measure(circle, perfect, np.random.default_rng(0))

    np.testing.assert_allclose(measured, circle, atol=0.02)


def test_speed_and_length_of_the_drive():
    route = Route.through(np.array([[0.0, 0.0], [30.0, 0.0], [30.0, 30.0], [0.0, 30.0]]))
    trajectory = drive(route, DriveSettings(laps=3, speed_m_per_s=2.0), seed=1)

    duration_s = (trajectory.stamps_ns[-1] - trajectory.stamps_ns[0]) / 1e9
    assert duration_s == pytest.approx(180.0, abs=0.05)
    assert trajectory.laps.tolist() == sorted(trajectory.laps.tolist())
    assert set(trajectory.laps.tolist()) == {0, 1, 2}


def test_frames_tell_where_they_were_taken(town, small_camera, two_laps):
    frames = list(take_images(town, small_camera, two_laps))

    assert [frame.stamp_ns for frame in frames] == two_laps.image_stamps_ns.tolist()
    nearest = np.abs(two_laps.stamps_ns - frames[5].stamp_ns).argmin()
    pose, row = frames[5].true_pose, two_laps.true_poses[nearest]
    assert (pose.x_m, pose.y_m, pose.yaw_rad) == pytest.approx(row.tolist(), abs=0.15)


def test_second_lap_sees_the_same_places(town, small_camera):
    """Each image of lap two is more like lap one's image of the same place than of others."""

    def describe(image):
        small = image.astype(float).mean(axis=2).reshape(9, 8, 12, 8).mean(axis=(1, 3))
        return (small - small.mean()) / small.std()

    settings = DriveSettings(speed_m_per_s=5.0, image_rate_hz=1.0)
    frames = list(take_images(town, small_camera, drive(town.route, settings, seed=0)))
    places = [np.array([f.true_pose.x_m, f.true_pose.y_m]) for f in frames]
    first, second = ([n for n, f in enumerate(frames) if f.lap == lap] for lap in (0, 1))
    right = 0
    for number in second:
        likeness = [
            (describe(frames[n].image) * describe(frames[number].image)).mean() for n in first
        ]
        best = first[int(np.argmax(likeness))]
        right += np.hypot(*(places[best] - places[number])) < 6.0

    assert right >= 0.6 * len(second)
