"""A listener and nodes that last for one test."""

from __future__ import annotations

import pytest


@pytest.fixture
def listener():
    """Hears and calls vpr_node."""
    from live import Listener

    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def start_node():
    """(parameters) -> an active node in this process, gone after the test."""
    from live import LiveNode

    nodes = []

    def start(**parameters):
        nodes.append(LiveNode({name.replace('__', '.'): v for name, v in parameters.items()}))
        return nodes[-1].node

    yield start
    for node in nodes:
        node.close()


@pytest.fixture
def start_process(tmp_path):
    """(arguments) -> vpr_node in a process of its own, killed after the test."""
    from live import NodeProcess

    processes = []

    def start(*arguments):
        processes.append(NodeProcess(tmp_path / f'node{len(processes)}.log', arguments))
        return processes[-1]

    yield start
    for process in processes:
        process.stop()
        print(process.log)  # shown by pytest when the test failed


@pytest.fixture
def eager(start_node, monkeypatch):
    """(parameters) -> an active node that turns every image into a query and a keyframe.

    One look is enough for a loop closure: what is tested is the node, not the decision.
    """
    from live import EAGER

    from selavpr_ros import place_filter, place_recognizer

    monkeypatch.setattr(place_filter, 'ENTER', 0.5)
    monkeypatch.setattr(place_filter, 'LEAST_PLACES', 1)
    monkeypatch.setattr(place_recognizer, 'VIEW_OVERLAP', 1.0)
    return lambda **changes: start_node(**{**EAGER, **{
        name.replace('__', '.'): value for name, value in changes.items()}})
