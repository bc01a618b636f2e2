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

    One view is enough for a loop closure: what is tested is the node, not the decision.
    """
    from live import EAGER, let_one_look_suffice

    let_one_look_suffice(monkeypatch)
    return lambda **changes: start_node(**{**EAGER, **{
        name.replace('__', '.'): value for name, value in changes.items()}})
