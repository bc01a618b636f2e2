"""Live nodes of two robots that share a map, and the network between them."""

from __future__ import annotations

import pytest
from live import send_places, wait_until
from relay import milvus_server
from std_srvs.srv import Trigger

from selavpr_msgs.msg import VprStatus


@pytest.fixture
def server(tmp_path):
    with milvus_server(tmp_path / 'server.db') as way:
        yield way


@pytest.fixture
def robot(eager, server, tmp_path):
    """Starts the node of a robot."""
    return lambda number: eager(
        robot_id=number, map__path=f'milvus://127.0.0.1:{server.port}',
        map__own_path=str(tmp_path / f'{number}.vprmap'), map__server_timeout=1.0)


def end(node):
    node.trigger_deactivate()
    node.trigger_cleanup()


def test_a_robot_closes_loops_with_another_one(listener, robot):
    node = robot(1)
    send_places(listener, [1, 2, 3])
    wait_until(lambda: listener.status.keyframes == 3, 'the keyframes')
    wait_until(lambda: listener.status.keyframes_undelivered == 0, 'their delivery')
    end(node)

    other = robot(2)
    send_places(listener, [3, 7], first_s=100)
    edge = wait_until(lambda: listener.received['closures'], 'a loop closure')[0]
    assert (edge.keyframe_from.robot_id, edge.keyframe_from.keyframe_id) == (1, 3)
    assert (edge.keyframe_to.robot_id, edge.inter_robot) == (2, True)
    assert listener.status.shared_map_error == ''
    wait_until(lambda: len(other.recognizer.keyframe_map) == 2, 'its own keyframes')


def test_a_robot_without_a_past_relocalizes_in_what_others_know(listener, robot):
    node = robot(1)
    send_places(listener, [1, 2, 3, 4])
    wait_until(lambda: listener.status.keyframes == 4, 'the keyframes')
    wait_until(lambda: listener.status.keyframes_undelivered == 0, 'their delivery')
    end(node)

    robot(2)
    client = listener.node.create_client(Trigger, '/vpr/trigger_relocalization')
    assert client.wait_for_service(10.0)
    answer = client.call_async(Trigger.Request())
    for second in range(100, 160, 4):
        if answer.done():
            break
        send_places(listener, [1, 2, 3, 4], first_s=second)
    wait_until(answer.done, 'the outcome')
    assert answer.result().success, answer.result().message
    listener.node.destroy_client(client)


def test_nobody_is_told_a_password(listener, start_node, tmp_path):
    start_node(
        robot_id=1, map__path='http://robot:secret@127.0.0.1:1', status__period=0.1,
        map__own_path=str(tmp_path / 'own.vprmap'), **{'model__weights': 'hog'})
    wait_until(lambda: listener.status and listener.status.map_path, 'the path')
    assert listener.status.map_path == "map 'selavpr' on http://127.0.0.1:1"
    diagnostic = listener.wait_for_diagnostic('Map', 'no answer in time')
    assert 'secret' not in str(diagnostic)


def test_a_network_that_goes_away_stops_nobody(listener, robot, server):
    robot(1)
    send_places(listener, [1, 2])
    server.cut()
    send_places(listener, [3, 4], first_s=20)
    wait_until(lambda: listener.counted('keyframes_undelivered') >= 2, 'keyframes that wait')
    wait_until(lambda: 'no answer in time' in listener.status.shared_map_error, 'the reason')
    assert listener.status.state == VprStatus.ACTIVE
    listener.wait_for_diagnostic('Map', 'no answer in time')
    send_places(listener, [3], first_s=40)
    assert listener.candidates[-1].matches[0].match.keyframe_id == 3

    server.open()
    wait_until(lambda: listener.status.shared_map_error == '', 'the server to be back', 30.0)
    wait_until(lambda: listener.status.keyframes_undelivered == 0, 'the delivery')


def test_a_robot_without_a_number_is_refused(start_node, server):
    node = start_node(map__path=f'milvus://127.0.0.1:{server.port}')
    assert 'set robot_id to a number from 1 on' in node.last_error
