"""Play bags one after another, each into a new run of the node, all on one map.

ros2 launch selavpr_ros multi_session.launch.py map:=town.vprmap bags:='monday.bag tuesday.bag'
ros2 launch selavpr_ros multi_session.launch.py map:=town.vprmap bags:='monday.bag tuesday.bag' \
    image_topic:=/camera/image_raw odom_topic:=/odom robot_id:=3

Every other argument goes to vpr.launch.py: `ros2 launch selavpr_ros vpr.launch.py --show-args`.
"""

from __future__ import annotations

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

ONE_RUN = Path(__file__).absolute().with_name('vpr.launch.py')
ARGUMENTS = {
    'map': 'Map file, e.g. town.vprmap; the first bag creates it, or adds to an existing one',
    'bags': 'Bags in the order in which they are played, separated by spaces; quote those with '
            'spaces in their names',
}


def find_bags(text: str) -> list[str]:
    """Read the list of bags; all have to be there before the first is played."""
    bags = [expanduser(bag) for bag in shlex.split(text)]
    if not bags:
        raise ValueError("bags:='' names no bag: give e.g. bags:='monday.bag tuesday.bag'")
    for bag in bags:
        if not Path(bag).exists():
            raise FileNotFoundError(f'bags:=... {bag} does not exist')
    return bags


def make_run(bag: str, given: dict[str, str]) -> ExecuteProcess:
    """One run of the node: vpr.launch.py with a bag, which ends with the bag."""
    arguments = [f'{name}:={value}' for name, value in given.items() if name != 'bags']
    return ExecuteProcess(
        cmd=['ros2', 'launch', str(ONE_RUN), f'bag:={bag}', *arguments], name=Path(bag).stem,
        output='screen')


def go_on(
    following: list[ExecuteProcess], event: ProcessExited, context: LaunchContext
) -> list[LaunchDescriptionEntity]:
    """Start the next run, or end after the last run or a failed one."""
    if context.is_shutdown:
        return []
    if event.returncode or not following:
        how = f'failed ({event.returncode})' if event.returncode else 'was the last run'
        return [Shutdown(reason=f'{event.process_name} {how}')]
    return start_runs(following)


def start_runs(runs: list[ExecuteProcess]) -> list[LaunchDescriptionEntity]:
    """Start the first run, and the others one after another."""
    ended = OnProcessExit(target_action=runs[0], on_exit=partial(go_on, runs[1:]))
    return [RegisterEventHandler(ended), runs[0]]


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Turn the arguments into runs, which get only the arguments that were given."""
    given = dict(context.launch_configurations)
    return start_runs([make_run(bag, given) for bag in find_bags(given['bags'])])


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments that are needed here; neither has a default."""
    return LaunchDescription([
        *(DeclareLaunchArgument(name, description=text) for name, text in ARGUMENTS.items()),
        OpaqueFunction(function=start)])
