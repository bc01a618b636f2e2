"""Start the place recognition node on a live camera, or on a bag.

ros2 launch selavpr_ros vpr.launch.py --show-args
ros2 launch selavpr_ros vpr.launch.py image_topic:=/camera/image_raw odom_topic:=/odom
ros2 launch selavpr_ros vpr.launch.py image_topic:=/camera/image_raw map:=~/office.vprmap
ros2 launch selavpr_ros vpr.launch.py image_topic:=/camera/image_raw bag:=drive.mcap rviz:=true
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from importlib.util import find_spec
from os.path import expanduser
from pathlib import Path

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
from launch.events.process import ProcessExited
from launch.logging import get_logger
from launch.substitutions import LaunchConfiguration, TextSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.srv import GetState
from rclpy.client import Client

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
TYPES = {'robot_id': int, 'use_sim_time': bool, 'autostart': bool}

SHARE = Path(__file__).absolute().parents[1]
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


def is_on(given: dict[str, str], argument: str) -> bool:
    """Read a switch; anything but true and false is an error."""
    words = {'true': True, '1': True, 'false': False, '0': False}
    if given[argument].lower() not in words:
        raise ValueError(f"{argument}:={given[argument]} should be 'true' or 'false'")
    return words[given[argument].lower()]


def existing(given: dict[str, str], argument: str) -> str:
    """Read a path; ':=~/...' is not expanded by the shell."""
    path = expanduser(given[argument])
    if not Path(path).exists():
        raise FileNotFoundError(f'{argument}:={path} does not exist')
    return path


def typed(text: str, kind: type) -> ParameterValue:
    """A value with its type; without it, launch would read a text like '1' as a number."""
    return ParameterValue([TextSubstitution(text=text)], value_type=kind)


def make_parameters(given: dict[str, str]) -> dict[str, ParameterValue]:
    """The arguments that the user gave, by the names of their parameters."""
    values = {argument: given[argument] for argument in PARAMETERS if given[argument]}
    if given['weights'].startswith('~'):
        values['weights'] = expanduser(given['weights'])
    if given['image_topic'].endswith('/compressed'):
        values.setdefault('image_transport', 'compressed')
    return {PARAMETERS[argument]: typed(value, TYPES.get(argument, str))
            for argument, value in values.items()}


def make_remappings(given: dict[str, str]) -> list[tuple[str, str]]:
    """Remap the topics; the node itself appends '/compressed' to that of the images."""
    image = given['image_topic'].removesuffix('/compressed')
    beside, slash, _ = image.rpartition('/')
    topics = {
        'image': image,
        'odom': given['odom_topic'],
        'camera_info': given['camera_info_topic'] or (slash and f'{beside}/camera_info'),
        'depth': given['depth_topic']}
    return [(name, topic) for name, topic in topics.items() if topic]


def end_all(event: ProcessExited, context: LaunchContext) -> list[Shutdown]:
    """End everything with this process; the second of two shutdowns would be an error."""
    return [] if context.is_shutdown else [Shutdown(reason=f'{event.process_name} has ended')]


def make_node(given: dict[str, str]) -> Node:
    """The place recognition node; while a bag is played, everything ends with the node."""
    respawn = is_on(given, 'respawn')
    return Node(
        package='selavpr_ros',
        executable='vpr_node',
        exec_name='vpr_node',
        namespace=given['namespace'],
        name=given['name'],
        parameters=[existing(given, 'params_file'), make_parameters(given)],
        remappings=make_remappings(given),
        ros_arguments=['--log-level', given['log_level']],
        prefix=given['prefix'] or None,
        respawn=respawn,
        respawn_delay=2.0,
        output='screen',
        on_exit=end_all if given['bag'] and not respawn else None,
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
    return Node(
        package='rviz2',
        executable='rviz2',
        namespace=given['namespace'],
        remappings=make_rviz_remappings(given),
        arguments=['-d', existing(given, 'rviz_config')],
        parameters=[{'use_sim_time': typed(given['use_sim_time'] or 'false', bool)}],
    )


def make_player(given: dict[str, str]) -> ExecuteProcess:
    """The player of the bag; everything ends with it."""
    if find_spec('ros2bag') is None:
        raise RuntimeError(
            "bag:= needs the command 'ros2 bag': apt install ros-$ROS_DISTRO-ros2bag "
            'ros-$ROS_DISTRO-rosbag2-storage-default-plugins. Without it: vpr replay BAG')
    command = ['ros2', 'bag', 'play', existing(given, 'bag'), '--disable-keyboard-controls',
               '--clock', '100', '--rate', given['bag_rate'], '--start-offset', given['bag_start'],
               '--delay', '4']  # seconds; DDS can need three until player and node know each other
    if is_on(given, 'bag_loop'):
        command.append('--loop')
    return ExecuteProcess(cmd=command, output='screen', log_cmd=True, on_exit=end_all)


async def ask_state(states: Client) -> str:
    """The state of a lifecycle node, or why it is not known."""
    if not states.service_is_ready():
        return 'not there yet'
    answer = states.call_async(GetState.Request())
    for _ in range(40):
        if answer.done():
            return answer.result().current_state.label
        await asyncio.sleep(0.05)
    states.remove_pending_request(answer)
    return 'busy'


async def wait_until_active(context: LaunchContext, node: Node) -> None:
    """Ask the node until it is active.

    Transition events are not enough: a node that is active at once has sent them before it knows
    the subscription here.
    """
    states = get_ros_node(context).create_client(GetState, f'{node.node_name}/get_state')
    told = None
    with suppress(asyncio.CancelledError):  # a shutdown cancels this, which launch cannot handle
        while (state := await ask_state(states)) != 'active':
            if state != told:
                get_logger('vpr.launch').info(f'{node.node_name} is {state}: the bag waits')
                told = state
            await asyncio.sleep(0.2)


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Turn the arguments into processes."""
    given = {argument: LaunchConfiguration(argument).perform(context) for argument in ARGUMENTS}
    if given['bag']:
        given['use_sim_time'] = 'true'
    node = make_node(given)
    entities: list[LaunchDescriptionEntity] = [node]
    if is_on(given, 'rviz'):
        entities.append(make_rviz(given))
    if given['bag']:
        waiting = OpaqueCoroutine(coroutine=wait_until_active, args=[node])
        playing = OnExecutionComplete(target_action=waiting, on_completion=make_player(given))
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
