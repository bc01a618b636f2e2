"""The launch file: read as text everywhere, run where launch is installed."""

import ast
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from selavpr_ros.settings import describe

ROOT = Path(__file__).parents[1]
LAUNCH_FILE = ROOT / 'launch/vpr.launch.py'
SESSIONS_FILE = ROOT / 'launch/multi_session.launch.py'
# Parameters of the node that are no settings of the method.
OF_THE_NODE = {'autostart': True, 'use_sim_time': False}


@pytest.fixture(scope='module')
def tree():
    return ast.parse(LAUNCH_FILE.read_text())


def table(tree, name):
    """The dict that is assigned to `name`, its values as they are written."""
    (written,) = (node.value for node in tree.body if isinstance(node, ast.Assign)
                  and [target.id for target in node.targets] == [name])
    return {ast.literal_eval(key): value for key, value in zip(written.keys, written.values,
                                                               strict=True)}


def literals(tree, name):
    return {key: ast.literal_eval(value) for key, value in table(tree, name).items()}


def arguments_read(tree):
    """Every text in given['text'] and in function(given, 'text')."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            parts = [node.value, node.slice]
        elif isinstance(node, ast.Call):
            parts = node.args[:2]
        else:
            continue
        if len(parts) == 2 and getattr(parts[0], 'id', '') == 'given' \
                and isinstance(parts[1], ast.Constant):
            yield parts[1].value


def test_every_argument_has_a_description(tree):
    for argument, text in literals(tree, 'ARGUMENTS').items():
        assert len(text) > 10, argument


def test_every_argument_is_declared_and_used(tree):
    declared, overriding = literals(tree, 'ARGUMENTS'), literals(tree, 'PARAMETERS')
    assert {*arguments_read(tree), *overriding} == set(declared)
    assert set(table(tree, 'DEFAULTS')) <= set(declared)


def test_every_parameter_that_is_overridden_exists_and_has_the_type(tree):
    defaults = {info.name: info.default for info in describe()} | OF_THE_NODE
    types = {argument: kind.id for argument, kind in table(tree, 'TYPES').items()}
    overriding = literals(tree, 'PARAMETERS')
    assert set(types) <= set(overriding)
    for argument, parameter in overriding.items():
        assert type(defaults[parameter]).__name__ == types.get(argument, 'str'), argument


def test_every_file_that_is_a_default_exists(tree):
    files = [node.right.value for node in ast.walk(tree) if isinstance(node, ast.BinOp)
             and getattr(node.left, 'id', '') == 'SHARE']
    assert files
    assert [file for file in files if not (ROOT / file).is_file()] == []


# ---- with launch -------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def vpr_launch():
    """The launch file as a module."""
    # A folder of this repository is called launch, too, so `import launch` proves nothing.
    pytest.importorskip('launch_ros.actions', reason='launch comes with a ROS 2 installation')
    loader = SourceFileLoader('vpr_launch', str(LAUNCH_FILE))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def given(vpr_launch):
    """(argument=...) -> all arguments as texts, the others with their defaults."""
    defaults = {name: vpr_launch.DEFAULTS.get(name, '') for name in vpr_launch.ARGUMENTS}
    return lambda **arguments: {**defaults, **arguments}


def parameters(vpr_launch, given):
    from launch import LaunchContext

    made = vpr_launch.make_parameters(given)
    return {name: value.evaluate(LaunchContext()) for name, value in made.items()}


def test_arguments_are_shown_with_defaults_and_descriptions(vpr_launch):
    shown = vpr_launch.generate_launch_description().get_launch_arguments()
    assert [argument.name for argument in shown] == list(vpr_launch.ARGUMENTS)
    for argument in shown:
        assert argument.default_value is not None
        assert argument.description.startswith(vpr_launch.ARGUMENTS[argument.name])


def test_nothing_given_overrides_nothing(vpr_launch, given):
    assert parameters(vpr_launch, given()) == {}
    assert vpr_launch.make_remappings(given()) == []


def test_what_is_given_arrives_in_its_type(vpr_launch, given):
    assert parameters(vpr_launch, given(weights='12', robot_id='12', autostart='false')) == {
        'model.weights': '12', 'robot_id': 12, 'autostart': False}


def test_the_home_folder_is_known(vpr_launch, given):
    assert parameters(vpr_launch, given(weights='~/net.pth')) == {
        'model.weights': str(Path.home() / 'net.pth')}


def test_a_compressed_topic_may_be_named_in_full(vpr_launch, given):
    full = given(image_topic='/cam/image_raw/compressed', odom_topic='/odom')
    assert parameters(vpr_launch, full) == {'image_transport': 'compressed'}
    assert vpr_launch.make_remappings(full) == [
        ('image', '/cam/image_raw'), ('odom', '/odom'), ('camera_info', '/cam/camera_info')]


def test_the_camera_info_is_beside_the_images_unless_named(vpr_launch, given):
    assert vpr_launch.make_remappings(given(image_topic='image_raw')) == [('image', 'image_raw')]
    named = vpr_launch.make_remappings(
        given(image_topic='/cam/left/image', camera_info_topic='/info', depth_topic='/depth'))
    assert named[1:] == [('camera_info', '/info'), ('depth', '/depth')]


def test_rviz_listens_to_what_the_node_is_told(vpr_launch, given):
    remappings = dict(vpr_launch.make_rviz_remappings(
        given(name='front', image_topic='/cam/image_raw/compressed', odom_topic='/wheel/odom')))
    assert remappings == {
        '/vpr/markers': 'front/markers', '/vpr/debug_image': 'front/debug_image',
        '/vpr/relocalization_pose': 'front/relocalization_pose', '/odom': '/wheel/odom',
        '/camera/image_raw': '/cam/image_raw'}


@pytest.mark.parametrize(('arguments', 'sentence'), [
    ({'params_file': '/nowhere.yaml'}, 'params_file:=/nowhere.yaml does not exist'),
    ({'respawn': 'maybe'}, "respawn:=maybe should be 'true' or 'false'"),
])
def test_a_bad_argument_is_named(vpr_launch, given, arguments, sentence):
    with pytest.raises((ValueError, OSError), match=sentence):
        vpr_launch.make_node(given(**arguments))


def test_a_missing_bag_is_named(vpr_launch, given, monkeypatch):
    monkeypatch.setattr(vpr_launch, 'find_spec', lambda name: name)
    with pytest.raises(OSError, match='bag:=/nowhere does not exist'):
        vpr_launch.make_player(given(bag='/nowhere'))


def test_without_ros2_bag_it_says_what_to_do(vpr_launch, given, monkeypatch, tmp_path):
    monkeypatch.setattr(vpr_launch, 'find_spec', lambda name: None)
    with pytest.raises(RuntimeError, match='apt install .*-ros2bag .* vpr replay'):
        vpr_launch.make_player(given(bag=str(tmp_path)))


# Plays nothing: writes down how it was called and how the node is at this moment.
PLAYER = """
import json, pathlib, sys
import rclpy
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters

rclpy.init()
node = rclpy.create_node('player')

def call(kind, name, request):
    client = node.create_client(kind, name)
    assert client.wait_for_service(10.0)
    future = client.call_async(request)
    rclpy.spin_until_future_complete(node, future, timeout_sec=10.0)
    return future.result()

names = ['robot_id', 'use_sim_time', 'query.max_rate']
values = call(GetParameters, '/r1/vpr/get_parameters', GetParameters.Request(names=names)).values
pathlib.Path(__file__).with_name('seen.json').write_text(json.dumps({
    'command': sys.argv[1:],
    'state': call(GetState, '/r1/vpr/get_state', GetState.Request()).current_state.label,
    'values': [values[0].integer_value, values[1].bool_value, values[2].double_value],
}))
"""

LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

file, *arguments = sys.argv[1:]
service = LaunchService(noninteractive=True)
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(file),
    launch_arguments=[argument.split(':=', 1) for argument in arguments])]))
sys.exit(service.run())
"""


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!{sys.executable}\n{text}')
    path.chmod(0o755)


@pytest.fixture
def installed(tmp_path):
    """Environment in which ROS finds the node, and in which `ros2 bag` is the one above."""
    (tmp_path / 'share/ament_index/resource_index/packages').mkdir(parents=True)
    (tmp_path / 'share/ament_index/resource_index/packages/selavpr_ros').touch()
    write_program(tmp_path / 'lib/selavpr_ros/vpr_node',
                  'from selavpr_ros.ros.vpr_node import main\nmain()')
    write_program(tmp_path / 'bin/ros2', PLAYER)
    (tmp_path / 'ros2bag.py').touch()
    first = {'AMENT_PREFIX_PATH': tmp_path, 'PATH': tmp_path / 'bin',
             'PYTHONPATH': f'{tmp_path}:{ROOT}'}
    paths = {name: f'{path}:{os.environ.get(name, "")}' for name, path in first.items()}
    return {**os.environ, **paths, 'ROS_LOG_DIR': str(tmp_path / 'log'),
            'ROS_DOMAIN_ID': str(1 + os.getpid() % 100)}


def test_a_bag_waits_for_the_active_node_and_ends_everything(vpr_launch, installed, tmp_path):
    bag, params = tmp_path / 'drive.mcap', tmp_path / 'mine.yaml'
    bag.touch()
    params.write_text('/**:\n  ros__parameters: {query: {max_rate: 7.0}, robot_id: 3}\n')
    finished = subprocess.run(
        [sys.executable, '-c', LAUNCH, LAUNCH_FILE, f'bag:={bag}', 'namespace:=r1', 'robot_id:=9',
         'bag_rate:=2.0', 'image_topic:=/camera/image', f'params_file:={params}'],
        capture_output=True, text=True, cwd=tmp_path, env=installed, timeout=120)
    output = finished.stdout + finished.stderr
    assert finished.returncode == 0, output
    assert output.count('process has finished cleanly') == 2, output
    seen = json.loads((tmp_path / 'bin/seen.json').read_text())
    assert seen['command'][:3] == ['bag', 'play', str(bag)]
    assert seen['command'][4:8] == ['--clock', '100', '--rate', '2.0']
    assert seen['state'] == 'active'
    assert seen['values'] == [9, True, 7.0]


# Plays nothing: writes down how it was called; the bag bad.bag fails.
RUN = """
import pathlib, sys
with pathlib.Path(__file__).with_name('runs').open('a') as file:
    print(*sys.argv[1:], file=file)
sys.exit('bag:=bad.bag' in sys.argv)
"""


@pytest.fixture
def run_sessions(vpr_launch, tmp_path):
    """(arguments) -> its output, and how `ros2` was called."""
    write_program(tmp_path / 'bin/ros2', RUN)
    for bag in ('monday.bag', 'a bag', 'bad.bag', 'tuesday.bag'):
        (tmp_path / bag).touch()

    def run(*arguments):
        finished = subprocess.run(
            [sys.executable, '-c', LAUNCH, SESSIONS_FILE, *arguments], capture_output=True,
            text=True, cwd=tmp_path, timeout=60, env={
                **os.environ, 'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}',
                'ROS_LOG_DIR': str(tmp_path / 'log')})
        runs = tmp_path / 'bin/runs'
        return (finished.stdout + finished.stderr,
                runs.read_text().splitlines() if runs.exists() else [])

    return run


def test_bags_are_played_one_after_another_on_one_map(run_sessions):
    output, runs = run_sessions(
        'map:=town.vprmap', "bags:=monday.bag 'a bag' tuesday.bag", 'robot_id:=3')
    assert runs == [
        f'launch {LAUNCH_FILE} bag:={bag} map:=town.vprmap robot_id:=3'
        for bag in ('monday.bag', 'a bag', 'tuesday.bag')], output
    assert output.count('process has finished cleanly') == 3


def test_a_run_that_fails_is_the_last(run_sessions):
    _, runs = run_sessions('map:=town.vprmap', 'bags:=bad.bag tuesday.bag')
    assert [run.split()[2] for run in runs] == ['bag:=bad.bag']


@pytest.mark.parametrize(('bags', 'words'), [
    ('monday.bag none.bag', 'none.bag does not exist'), ('', 'names no bag')])
def test_all_bags_have_to_be_there(run_sessions, bags, words):
    output, runs = run_sessions('map:=town.vprmap', f'bags:={bags}')
    assert words in output
    assert runs == []


def test_the_sessions_need_a_map_and_bags(run_sessions):
    output, _ = run_sessions('bags:=monday.bag')
    assert "Included launch description missing required argument 'map'" in output
