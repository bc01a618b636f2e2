"""vpr_node as a user starts, misconfigures, repairs and ends it."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys

import pytest
from live import SECOND, place, raw_message, wait_until
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import ReliabilityPolicy

from selavpr_msgs.msg import VprStatus


def test_it_starts_by_itself_and_ends_on_sigint(listener, start_process, tmp_path):
    folder = tmp_path / 'maps'
    folder.mkdir()
    process = start_process(
        '-p', 'query.max_rate:=3',  # an integer where 3.0 is meant
        '-p', f'map.path:={folder}/office.vprmap')
    status = listener.wait_for_state(VprStatus.ACTIVE)
    assert status.model_id.startswith('embedded/')
    assert (status.device, status.precision, status.last_error) == ('cpu', 'fp32', '')
    wait_until(lambda: 'listening to' in process.log, 'the line that names the topics')
    assert '/image (sensor_msgs/msg/Image, 0 publishers)' in process.log

    seconds = itertools.count(1)  # the end may come while the node is at work

    def send():
        listener.send('/image', raw_message(place(1), next(seconds) * SECOND))

    listener.insist(send, lambda: listener.candidates, 'an answer')
    send()
    assert process.stop(signal.SIGINT) == 0
    assert 'Traceback' not in process.log
    # Neither a log nor a lock: the map was closed.
    assert [file.name for file in folder.iterdir()] == ['office.vprmap']


def test_more_signals_do_not_disturb_a_node_that_ends(start_process, tmp_path):
    process = start_process(
        '-p', 'model.weights:=hog', '-p', f'map.path:={tmp_path / "office.vprmap"}')
    wait_until(lambda: 'configured' in process.log, 'the model')
    for signal_number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        process.send_signal(signal_number)
    assert process.stop(signal.SIGINT) == 0
    assert 'Traceback' not in process.log
    assert not list(tmp_path.glob('office.vprmap-*'))


INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(name, *_):
        if name == 'rclpy':
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt)
from selavpr_ros.ros.vpr_node import main
main()
"""


def test_an_interrupted_start_says_nothing():
    ended = subprocess.run([sys.executable, '-c', INTERRUPTED], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, '', '')


def test_arguments_that_ros_rejects_are_told_in_a_sentence(start_process, tmp_path):
    params = tmp_path / 'params.yaml'
    params.write_text('/**: [')
    process = start_process('--params-file', str(params))
    wait_until(lambda: 'vpr_node cannot start: ' in process.log, 'the sentence')
    assert process.stop() == 1
    assert str(params) in process.log
    assert 'Traceback' not in process.log


def test_bad_values_refuse_to_configure_until_they_are_set_right(listener, start_process):
    process = start_process(
        '-p', 'index.top_k:=500', '-p', 'model.weights:=/no/such/file.pth',
        '-p', 'keyframe.min_intervall:=1.0')
    wait_until(lambda: listener.status and listener.status.last_error, 'an error in the status')
    assert listener.status.last_error == 'index.top_k = 500 is not in [1, 200]'
    assert listener.status.state == VprStatus.UNCONFIGURED
    assert "there is no parameter 'keyframe.min_intervall'" in process.log
    assert 'cannot configure: index.top_k = 500 is not in [1, 200]' in process.log

    refused = listener.set_parameter('index.top_k', 0)
    assert not refused.successful
    assert 'index.top_k' in refused.reason
    assert listener.set_parameter('index.top_k', 5).successful
    assert not listener.transition('configure')
    wait_until(lambda: '/no/such/file.pth' in listener.status.last_error, 'the next error')

    assert listener.set_parameter('model.weights', 'hog').successful
    assert listener.transition('configure')
    assert listener.wait_for_state(VprStatus.INACTIVE).last_error == ''
    assert listener.transition('activate')
    listener.wait_for_state(VprStatus.ACTIVE)
    assert listener.transition('deactivate')
    assert listener.transition('cleanup')
    listener.wait_for_state(VprStatus.UNCONFIGURED)
    assert process.stop(signal.SIGTERM) == 0
    assert 'Traceback' not in process.log


def test_parameters_that_are_gone_are_named_and_ignored(listener, start_node, capfd):
    gone = {
        'gates.min_similarity': 0.5, 'gates.min_local_matches': 300, 'gates.calibration': 'none',
        'gates.ambiguity_ratio': 0.9, 'gates.ambiguity_radius': 10.0,
        'gates.odometry_check': True, 'gates.temporal_window': 5, 'gates.temporal_min': 3,
        'gates.temporal_reach': 10, 'gates.min_motion_between': 0.5,
        'keyframe.max_similarity': 0.95, 'keyframe.duplicate_similarity': 0.98,
        'relocalization.min_consistent': 3}
    node = start_node(**gone)
    listener.wait_for_state(VprStatus.ACTIVE)  # an older parameter file still starts it
    told = capfd.readouterr().err
    for name in gone:
        assert f"there is no parameter '{name}': misspelt? It is ignored" in told
        assert name not in node.recognizer.settings.flat()


@pytest.mark.parametrize(('name', 'value', 'words'), [
    ('model__weights_sha256', '0' * 64, 'model.weights_sha256 asks for 000'),
    ('model__device', 'cuda:99', "device 'cuda:99' cannot be used here"),
    ('model__input_size', [100, 100], 'multiples of 8'),
    ('image__rotate_deg', 45, 'image.rotate_deg = 45 is none of 0, 90, 180, 270'),
    ('image__mask', '/no/mask.png', '/no/mask.png cannot be read: No such file'),
    ('robot_id', 'one', "robot_id = 'one' should be like 0"),
])
def test_every_refusal_is_a_sentence(start_node, name, value, words):
    node = start_node(**{name: value})
    assert words in node.last_error
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE


def test_autostart_can_be_left_to_a_manager(listener, start_node):
    start_node(autostart=False)
    listener.wait_for_state(VprStatus.UNCONFIGURED)
    assert listener.status.last_error == ''
    listener.wait_for_diagnostic('Model', 'not configured')
    assert listener.transition('configure')
    assert listener.transition('shutdown')


def test_quality_of_service_can_be_overridden_as_in_every_node(listener, start_node):
    start_node(**{'qos_overrides./image.subscription.reliability': 'reliable'})
    listener.wait_for_state(VprStatus.ACTIVE)
    found = wait_until(
        lambda: listener.node.get_subscriptions_info_by_topic('/image'), 'the subscription')
    assert found[0].qos_profile.reliability == ReliabilityPolicy.RELIABLE


def test_an_impossible_override_refuses_to_activate(listener, start_node):
    node = start_node(**{'qos_overrides./image.subscription.reliability': 'perfect'})
    wait_until(lambda: listener.status and 'perfect' in listener.status.last_error, 'the error')
    assert listener.status.state == VprStatus.INACTIVE
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
