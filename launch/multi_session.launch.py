"""Play bags one after another, each into a new run of the node, all on one map.

ros2 launch selavpr_ros multi_session.launch.py map:=town.vprmap bags:='monday.bag tuesday.bag'
ros2 launch selavpr_ros multi_session.launch.py map:=town.vprmap bags:='monday.bag tuesday.bag' \
    image_topic:=/camera/image_raw odom_topic:=/odom robot_id:=3

Every other argument or parameter goes to vpr.launch.py: `ros2 launch selavpr_ros vpr.launch.py
--show-args`.
"""

from __future__ import annotations

import runpy
import shlex
from functools import partial
from os.path import expanduser
from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited

THIS = Path(__file__).absolute()
ONE_RUN = THIS.with_name('vpr.launch.py')
ARGUMENTS = {
    'map': 'Map file, e.g. town.vprmap; the first bag creates it, or adds to an existing one',
    'bags': 'Bags in the order in which they are played, separated by spaces; quote those with '
            'spaces in their names',
}


def find_bags(text: str) -> list[str]:
    """Read the list of bags; all have to be there before the first is played."""
    try:
        bags = [expanduser(bag) for bag in shlex.split(text)]
    except ValueError as error:
        raise ValueError(f'bags:={text} cannot be read: {error}') from error
    if not bags:
        raise ValueError("bags:='' names no bag: give e.g. bags:='monday.bag tuesday.bag'")
    for bag in bags:
        if not Path(bag).exists():
            raise FileNotFoundError(f'bags:=... {bag} does not exist')
    return bags


def make_run(bag: str, arguments: dict[str, str]) -> ExecuteProcess:
    """One run of the node: vpr.launch.py with a bag, which ends with the bag."""
    return ExecuteProcess(
        cmd=['ros2', 'launch', str(ONE_RUN), f'bag:={bag}',
             *(f'{name}:={value}' for name, value in arguments.items())],
        name=Path(bag).stem, output='screen')


def go_on(
    following: list[ExecuteProcess], event: ProcessExited, context: LaunchContext
) -> list[LaunchDescriptionEntity]:
    """Start the next run, or end after the last run; a failed one is the last, and an error."""
    if context.is_shutdown:
        return []
    if event.returncode:
        raise RuntimeError(f'{event.process_name} has failed: see its error above; '
                           f'bags that are not played: {len(following)}')
    if not following:
        return [Shutdown(reason=f'{event.process_name} was the last run')]
    return start_runs(following)


def start_runs(runs: list[ExecuteProcess]) -> list[LaunchDescriptionEntity]:
    """Start the first run, and the others one after another."""
    ended = OnProcessExit(target_action=runs[0], on_exit=partial(go_on, runs[1:]))
    return [RegisterEventHandler(ended), runs[0]]


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Turn the arguments into runs, which get only the arguments that were given."""
    one_run = runpy.run_path(str(ONE_RUN))
    names = {*one_run['ARGUMENTS'], *ARGUMENTS} - {'bag'}  # each run has its own
    given = one_run['find_given'](context, THIS, names)
    bags = find_bags(given.pop('bags'))
    arguments = {name: text for name, text in given.items() if text}
    return start_runs([make_run(bag, arguments) for bag in bags])


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments that are needed here; neither has a default."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, description=text) for name, text in ARGUMENTS.items()),
        OpaqueFunction(function=start)])
