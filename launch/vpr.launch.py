"""Start the place recognition node on a live camera, or on a bag.

ros2 launch selavpr_ros vpr.launch.py --show-args
ros2 launch selavpr_ros vpr.launch.py image_topic:=/camera/image_raw odom_topic:=/odom
ros2 launch selavpr_ros vpr.launch.py image_topic:=/camera/image_raw map:=~/office.vprmap
ros2 launch selavpr_ros vpr.launch.py image_topic:=/camera/image_raw bag:=drive.mcap rviz:=true
ros2 launch selavpr_ros vpr.launch.py pose_source:=none gates.max_drift:=0.3

Every parameter of the node is an argument, too.
"""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from os.path import expanduser
from pathlib import Path
from shutil import which
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueCoroutine,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnExecutionComplete
from launch.events import ExecutionComplete
from launch.events.process import ProcessExited
from launch.logging import get_logger
from launch.substitutions import TextSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.client import Client
from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name

from selavpr_ros.errors import SettingError
from selavpr_ros.settings import AUTOSTART, FOREIGN, SettingInfo, Value, describe
from selavpr_ros.text import nearest

ARGUMENTS = {
    'namespace': 'Namespace of the node and of its relative topics',
    'name': 'Name of the node: its topics are NAME/candidates, NAME/loop_closures, ...',
    'params_file': 'Parameter file (YAML); a parameter that it does not name keeps its default',
    'image_topic': "Topic of the images; '' is 'image' in the namespace. A name that ends in "
                   "'/compressed' also means image_transport:=compressed",
    'odom_topic': "Topic of the odometry; '' is 'odom' in the namespace",
    'camera_info_topic': "Topic of the calibration; '' is camera_info beside image_topic",
    'depth_topic': "Topic of depth images for verify.geometry pnp; '' is 'depth' in the namespace",
    'image_transport': "'raw' or 'compressed'",
    'weights': "Path of a checkpoint, or a name that 'vpr models' lists",
    'map': 'Map file, e.g. office.vprmap, or address of a shared map; without one, the map is '
           'gone when the node ends',
    'mode': "'mapping' keeps keyframes, 'localization' only looks for places in the map",
    'device': "'auto', 'cpu', 'cuda' or 'cuda:N'",
    'precision': "'auto', 'fp32', 'fp16' or 'bf16'",
    'robot_id': 'Id of this robot, a part of every keyframe id',
    'use_sim_time': "'true': time comes from /clock; always so with bag:=",
    'autostart': "'false' leaves configuring and activating to a lifecycle manager",
    'log_level': "'debug', 'info', 'warn', 'error' or 'fatal', or that of one logger: vpr:=debug",
    'prefix': "Put before the node's command, e.g. the Python of a virtual environment: "
              '/home/me/venv/bin/python3',
    'respawn': "'true' starts the node again when it has died",
    'rviz': "'true' starts RViz too",
    'rviz_config': 'Configuration file of RViz',
    'bag': "Bag to play once the node is active; everything ends with it. '' is a live camera",
    'bag_rate': 'Speed of the bag; 2.0 is twice real time',
    'bag_start': 'Seconds of the bag to skip at its start',
    'bag_loop': "'true' plays the bag again and again",
}

# Argument -> parameter. An argument that is not given leaves what params_file says.
PARAMETERS = {
    'image_transport': 'image_transport',
    'weights': 'model.weights',
    'map': 'map.path',
    'mode': 'map.mode',
    'device': 'model.device',
    'precision': 'model.precision',
    'robot_id': 'robot_id',
    'use_sim_time': 'use_sim_time',
    'autostart': 'autostart',
}
SETTINGS = {info.name: info for info in (
    *describe(), AUTOSTART, SettingInfo('use_sim_time', False, ''))}
GROUPS = {name.partition('.')[0] for name in SETTINGS if '.' in name}
# Arguments that are no parameters, and no texts.
SWITCHES_AND_NUMBERS = {info.name: info for info in (
    SettingInfo('respawn', False, ''), SettingInfo('rviz', False, ''),
    SettingInfo('bag_rate', 1.0, '', low=1e-3), SettingInfo('bag_start', 0.0, '', low=0.0),
    SettingInfo('bag_loop', False, ''))}
# `ros2 launch` has options and arguments of its own, which come as arguments of the file.
OF_LAUNCH = ('launch-prefix', 'launch-prefix-filter', 'emulate_tty')

PACKAGE = 'selavpr_ros'
THIS = Path(__file__).absolute()
SHARE = THIS.parents[1]
DEFAULTS = {
    'name': 'vpr',
    'params_file': str(SHARE / 'config/vpr.yaml'),
    'log_level': 'info',
    'respawn': 'false',
    'rviz': 'false',
    'rviz_config': str(SHARE / 'config/vpr.rviz'),
    'bag_rate': '1.0',
    'bag_start': '0.0',
    'bag_loop': 'false',
}


def is_launched(file: Path) -> bool:
    """Whether this file itself is launched; another launch file may include it."""
    return (PACKAGE, file.name) in zip(sys.argv, sys.argv[1:], strict=False) or any(
        word.endswith(file.name) and Path(word).resolve() == file.resolve() for word in sys.argv)


def is_parameter(name: str) -> bool:
    """Whether the node has a parameter of this name: its own, or one of every node."""
    return name in SETTINGS or name.partition('.')[0] in FOREIGN


def find_given(
    context: LaunchContext, file: Path, arguments: Collection[str]
) -> dict[str, str]:
    """The arguments and parameters that were given, as texts; an unknown name is an error.

    A launch file that includes this one leaves its own arguments here as well: of these only the
    names are unknown that begin like a parameter.
    """
    given = {name: text for name, text in context.launch_configurations.items()
             if isinstance(text, str)}
    known = [name for name in given if name in arguments or is_parameter(name)]
    for name in given:
        ours = is_launched(file) or ('.' in name and name.partition('.')[0] in GROUPS)
        if ours and name not in (*known, *OF_LAUNCH):
            raise ValueError(f"there is no argument or parameter '{name}'"
                             f'{nearest(name, [*arguments, *SETTINGS])}')
    return {name: given[name] for name in known}


def read(info: SettingInfo, argument: str, text: str) -> Value:
    """The value of an argument."""
    try:
        return info.parse(text)
    except SettingError as error:
        raise ValueError(f'{argument}:={text} cannot be used: {error}') from error


def read_own(given: dict[str, str], argument: str) -> Any:
    """The value of an argument that is a switch or a number, and no parameter."""
    return read(SWITCHES_AND_NUMBERS[argument], argument, given[argument])


def existing(given: dict[str, str], argument: str) -> Path:
    """Read a path; ':=~/...' is not expanded by the shell."""
    path = Path(expanduser(given[argument]))
    if not path.exists():
        raise FileNotFoundError(f'{argument}:={path} does not exist')
    return path


def existing_file(given: dict[str, str], argument: str) -> str:
    """Read the path of a file."""
    path = existing(given, argument)
    if not path.is_file():
        raise FileNotFoundError(f'{argument}:={path} is a folder, and should be a file')
    return str(path)


def topic(given: dict[str, str], argument: str) -> str:
    """Read the name of a topic; empty if none is given."""
    name = given[argument].removesuffix('/compressed')
    try:
        if name:
            validate_topic_name(name)
    except InvalidTopicNameException as error:
        raise ValueError(f'{argument}:={name} cannot be used: {error}') from error
    return name


def make_value(name: str, argument: str, text: str) -> ParameterValue:
    """A value with its type; without one, launch would read a text like '1' as a number."""
    if name not in SETTINGS:
        return ParameterValue([TextSubstitution(text=text)])
    value = read(SETTINGS[name], argument, text)
    if isinstance(value, str):
        return ParameterValue([TextSubstitution(text=value)], value_type=str)
    return ParameterValue(list(value) if isinstance(value, tuple) else value)


def make_parameters(given: dict[str, str]) -> dict[str, ParameterValue]:
    """The parameters that the user gave, by their own names or by those of their arguments."""
    texts = {argument: text for argument, text in given.items()
             if text and (argument in PARAMETERS or is_parameter(argument))}
    if given['image_topic'].endswith('/compressed'):
        texts.setdefault('image_transport', 'compressed')
    for argument, name in PARAMETERS.items():
        if argument != name and argument in texts and name in texts:
            raise ValueError(f'{argument}:= and {name}:= are the same parameter: give one of them')
    names = {argument: PARAMETERS.get(argument, argument) for argument in texts}
    return {name: make_value(name, argument, texts[argument])
            for argument, name in names.items()}


def make_remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """Remap the topics; the node itself appends '/compressed' to that of the images."""
    image = topic(given, 'image_topic')
    beside, slash, _ = image.rpartition('/')
    topics = {
        'image': image,
        'odom': topic(given, 'odom_topic'),
        'camera_info': topic(given, 'camera_info_topic') or (slash and f'{beside}/camera_info'),
        'depth': topic(given, 'depth_topic')}
    return [(name, remapped) for name, remapped in topics.items() if remapped]


def make_prefix(given: dict[str, str]) -> str | None:
    """What is put before the node's command; its program has to be there."""
    words = shlex.split(given['prefix'])
    if not words:
        return None
    words[0] = expanduser(words[0])
    if not which(words[0]):
        raise FileNotFoundError(f'prefix:={words[0]} is no program that can be run')
    return shlex.join(words)


def end_all(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """End everything with this process: with an error, which is one of launch, too, if it failed.

    The second of two shutdowns would be an error.
    """
    if context.is_shutdown:
        return []
    if event.returncode:
        raise RuntimeError(f'{event.process_name} has failed: see its error above')
    return [Shutdown(reason=f'{event.process_name} has ended')]


def make_node(given: dict[str, str]) -> Node:
    """The place recognition node; with a bag, or launched alone, everything ends with it."""
    respawn = read_own(given, 'respawn')
    needed = given['bag'] or is_launched(THIS)
    return Node(
        package=PACKAGE,
        executable='vpr_node',
        exec_name='vpr_node',
        namespace=given['namespace'],
        name=given['name'],
        parameters=[existing_file(given, 'params_file'), make_parameters(given)],
        remappings=make_remappings(given),
        ros_arguments=['--log-level', given['log_level']],
        prefix=make_prefix(given),
        respawn=respawn,
        respawn_delay=2.0,
        output='screen',
        on_exit=end_all if needed and not respawn else None,
    )


def make_rviz_remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """Remap the default topics, which config/vpr.rviz names."""
    own = ('markers', 'relocalization_pose', 'debug_image')
    return [
        *((f'/vpr/{topic}', f"{given['name']}/{topic}") for topic in own),
        ('/odom', given['odom_topic'] or 'odom'),
        ('/camera/image_raw', (given['image_topic'] or 'image').removesuffix('/compressed'))]


def make_rviz(given: dict[str, str]) -> Node:
    """RViz in the namespace and the time of the node."""
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError as error:
        raise RuntimeError('rviz:=true needs RViz, which is not installed: apt install '
                           'ros-$ROS_DISTRO-rviz2, or leave rviz:=true out') from error
    in_sim_time = given['use_sim_time'] or 'false'
    return Node(
        package='rviz2',
        executable='rviz2',
        namespace=given['namespace'],
        remappings=make_rviz_remappings(given),
        arguments=['-d', existing_file(given, 'rviz_config')],
        parameters=[{'use_sim_time': make_value('use_sim_time', 'use_sim_time', in_sim_time)}],
    )


def make_player(given: dict[str, str]) -> ExecuteProcess:
    """The player of the bag; everything ends with it."""
    if find_spec('ros2bag') is None or which('ros2') is None:
        raise RuntimeError(
            "bag:= needs the command 'ros2 bag': apt install ros-$ROS_DISTRO-ros2bag "
            'ros-$ROS_DISTRO-rosbag2-storage-default-plugins. Without it: vpr replay BAG')
    rate, start_s = read_own(given, 'bag_rate'), read_own(given, 'bag_start')
    command = ['ros2', 'bag', 'play', str(existing(given, 'bag')), '--disable-keyboard-controls',
               '--clock', '100', '--rate', str(rate), '--start-offset', str(start_s),
               '--delay', '4']  # seconds; DDS can need three until player and node know each other
    if read_own(given, 'bag_loop'):
        command.append('--loop')
    return ExecuteProcess(cmd=command, output='screen', log_cmd=True, on_exit=end_all)


# States in which a node waits for somebody.
AT_REST = (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE)


async def ask(context: LaunchContext, client: Client, request: Any) -> Any:
    """The answer of a service, or None if none comes soon."""
    if context.is_shutdown or not client.service_is_ready():
        return None
    answer = client.call_async(request)
    for _ in range(40):
        if answer.done():
            return answer.result()
        await asyncio.sleep(0.05)
    client.remove_pending_request(answer)
    return None


async def wait_until_active(context: LaunchContext, node: Node) -> bool:
    """Ask the node until it is active, or until it has tried to become active in vain.

    Transition events are not enough: a node that is active at once has sent them before it knows
    the subscription here. A node that starts itself answers nothing before it has tried to.
    A shutdown cancels this, which launch cannot handle; after a second Ctrl-C it does not even.
    """
    ros, name, told = get_ros_node(context), node.node_name, None
    states = ros.create_client(GetState, f'{name}/get_state')
    parameters = ros.create_client(GetParameters, f'{name}/get_parameters')
    with suppress(asyncio.CancelledError):
        while not context.is_shutdown:
            answer = await ask(context, states, GetState.Request())
            state = answer and answer.current_state
            if state and state.id == State.PRIMARY_STATE_ACTIVE:
                return True
            if state and state.id in AT_REST:
                answer = await ask(
                    context, parameters, GetParameters.Request(names=[AUTOSTART.name]))
                if answer and answer.values[0].bool_value:
                    return False
            now = state.label if state else 'starting'
            if now != told:
                get_logger('vpr.launch').info(f'{name} is {now}: the bag waits')
                told = now
            await asyncio.sleep(0.2)
    return False


def play(
    player: ExecuteProcess, event: ExecutionComplete, context: LaunchContext
) -> list[ExecuteProcess]:
    """Play the bag, unless the node did not become active."""
    if context.is_shutdown:
        return []
    if not event.action.get_asyncio_future().result():
        # Raised here: launch may overlook an error of a coroutine.
        raise RuntimeError('the node could not be configured or activated, so the bag is not '
                           'played: see its error above')
    return [player]


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Turn the arguments into processes.

    Everything is checked before: launch would leave a process running that was started before an
    error.
    """
    given = find_given(context, THIS, ARGUMENTS)
    if given['bag']:
        given['use_sim_time'] = 'true'
    node = make_node(given)
    entities: list[LaunchDescriptionEntity] = [node]
    if read_own(given, 'rviz'):
        entities.append(make_rviz(given))
    if given['bag']:
        waiting = OpaqueCoroutine(coroutine=wait_until_active, args=[node])
        playing = OnExecutionComplete(
            target_action=waiting, on_completion=partial(play, make_player(given)))
        entities += [RegisterEventHandler(playing), waiting]
    return entities


def declare(argument: str) -> DeclareLaunchArgument:
    """Declare an argument: what it is, and what its absence means."""
    description = ARGUMENTS[argument]
    if argument in PARAMETERS:
        description += "; '' leaves it to params_file"
    return DeclareLaunchArgument(
        argument, default_value=DEFAULTS.get(argument, ''), description=description)


def generate_launch_description() -> LaunchDescription:
    """Declare every argument with its description."""
    return LaunchDescription([*map(declare, ARGUMENTS), OpaqueFunction(function=start)])
