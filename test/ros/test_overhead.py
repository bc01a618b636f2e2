from live import SECOND  # noqa: F401  skips without ROS

from selavpr_ros.ros.overhead import measure_overheads_ms


def test_every_image_is_timed():
    times_ms = measure_overheads_ms(48, 64, count=5)
    assert len(times_ms) == 5
    assert all(ms > 0.0 for ms in times_ms)
