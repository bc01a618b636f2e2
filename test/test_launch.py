"""The launch file: read as text everywhere, run where launch is installed."""

import ast
import asyncio
import json
import os
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import SimpleNamespace

import pytest

from selavpr_ros.settings import AUTOSTART, describe

ROOT = Path(__file__).parents[1]
LAUNCH_FILE = ROOT / 'launch/vpr.launch.py'
SESSIONS_FILE = ROOT / 'launch/multi_session.launch.py'
OF_THE_NODE = {AUTOSTART.name, 'use_sim_time'}


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


def test_every_parameter_that_is_overridden_exists(tree):
    known = {info.name for info in describe()} | OF_THE_NODE
    assert set(literals(tree, 'PARAMETERS').values()) <= known


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
    return lambda more=None, **arguments: {**defaults, **(more or {}), **arguments}


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


def test_every_parameter_is_an_argument(vpr_launch, given):
    named = given({'gates.max_drift': '1', 'pose_source': 'none', 'model.input_size': '[224, 308]',
                   'debug.image': 'off', 'map.path': 'on', 'model.weights_sha256': '',
                   'qos_overrides./image.subscription.depth': '5'})
    assert parameters(vpr_launch, named) == {
        'gates.max_drift': 1.0, 'pose_source': 'none', 'model.input_size': [224, 308],
        'debug.image': False, 'map.path': 'on', 'qos_overrides./image.subscription.depth': 5}


@pytest.mark.parametrize('text', ['on', '1', '~', 'null', '[a]', "it's: here", '{}', '#1'])
def test_a_text_that_looks_like_yaml_stays_a_text(vpr_launch, given, text):
    assert parameters(vpr_launch, given(map=text)) == {'map.path': text}


def find(vpr_launch, file, **given):
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(given)
    return vpr_launch.find_given(context, file, vpr_launch.ARGUMENTS)


@pytest.mark.parametrize('command', [
    ['ros2', 'launch', 'selavpr_ros', 'vpr.launch.py', 'map:=x'],
    ['ros2', 'launch', 'launch/../launch/vpr.launch.py'], ['-c', str(LAUNCH_FILE)]])
@pytest.mark.parametrize(('name', 'near'), [
    ('pose_sorce', 'pose_source'), ('max_drift', 'gates.max_drift'),
    ('image-topic', 'image_topic'), ('gates.max_drfit', 'gates.max_drift')])
def test_an_unknown_argument_is_refused(vpr_launch, monkeypatch, command, name, near):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', command)
    with pytest.raises(ValueError, match=f"parameter '{name}': do you mean '{near}'"):
        find(vpr_launch, LAUNCH_FILE, **{name: '1'})


def test_options_of_launch_itself_are_no_arguments(vpr_launch, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['-c', str(LAUNCH_FILE)])
    assert find(vpr_launch, LAUNCH_FILE, **{'launch-prefix': 'nice', 'map': 'x'}) == {'map': 'x'}


@pytest.mark.parametrize('command', [
    ['ros2', 'launch', 'my_robot', 'vpr.launch.py'], ['ros2', 'launch', 'robot.launch.py']])
def test_arguments_of_an_including_file_are_left_to_it(vpr_launch, monkeypatch, command):
    monkeypatch.setattr(sys, 'argv', command)
    given = {'slam': 'true', 'align_depth.enable': 'true', 'global_params': [('a', 1)]}
    assert find(vpr_launch, LAUNCH_FILE, **given, robot_id='3') == {'robot_id': '3'}
    with pytest.raises(ValueError, match="'gates.max_drfit': do you mean 'gates.max_drift'"):
        find(vpr_launch, LAUNCH_FILE, **given, **{'gates.max_drfit': '1'})


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
    ({'params_file': '/'}, 'params_file:=/ is a folder, and should be a file'),
    ({'respawn': 'maybe'}, 'respawn:=maybe cannot be used: .*true or false'),
    ({'robot_id': 'abc'}, 'robot_id:=abc cannot be used: .*a whole number'),
    ({'robot_id': '08'}, 'robot_id:=08 cannot be used: .*without leading zeros'),
    ({'mode': 'mappin'}, 'mode:=mappin cannot be used: .*not one of: mapping, localization'),
    ({'gates.max_drift': '99'}, r'gates.max_drift:=99 cannot be used: .*not in \[0, 10\]'),
    ({'map': 'a', 'map.path': 'b'}, 'map:= and map.path:= are the same parameter'),
    ({'image_topic': '/my camera'}, 'image_topic:=/my camera cannot be used: Invalid topic name'),
    ({'prefix': '~/none/python3'}, 'prefix:=/.*/none/python3 is no program that can be run'),
])
def test_a_bad_argument_is_named(vpr_launch, given, arguments, sentence):
    with pytest.raises((ValueError, OSError), match=sentence):
        vpr_launch.make_node(given(arguments))


@pytest.mark.parametrize(('argument', 'text'), [
    ('bag_rate', 'fast'), ('bag_rate', '0'), ('bag_start', '-1'), ('bag_loop', 'maybe')])
def test_how_a_bag_is_played_is_checked_before_anything_starts(
    vpr_launch, given, monkeypatch, tmp_path, argument, text
):
    monkeypatch.setattr(vpr_launch, 'find_spec', lambda name: name)
    monkeypatch.setattr(vpr_launch, 'which', lambda name: name)
    with pytest.raises(ValueError, match=f'{argument}:={text} cannot be used'):
        vpr_launch.make_player(given({argument: text}, bag=str(tmp_path)))


def test_a_prefix_may_have_arguments_and_the_home_folder(vpr_launch, given, monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    write_program(tmp_path / 'my venv/python3', '')
    assert vpr_launch.make_prefix(given(prefix="'~/my venv/python3' -O")) == (
        f"'{tmp_path}/my venv/python3' -O")


def test_a_missing_bag_is_named(vpr_launch, given, monkeypatch):
    monkeypatch.setattr(vpr_launch, 'find_spec', lambda name: name)
    monkeypatch.setattr(vpr_launch, 'which', lambda name: name)
    with pytest.raises(OSError, match='bag:=/nowhere does not exist'):
        vpr_launch.make_player(given(bag='/nowhere'))


def test_without_ros2_bag_it_says_what_to_do(vpr_launch, given, monkeypatch, tmp_path):
    monkeypatch.setattr(vpr_launch, 'find_spec', lambda name: None)
    with pytest.raises(RuntimeError, match='apt install .*-ros2bag .* vpr replay'):
        vpr_launch.make_player(given(bag=str(tmp_path)))


def test_a_shutdown_ends_the_wait_for_the_node_even_without_being_cancelled(vpr_launch):
    from launch import LaunchContext

    context = LaunchContext()

    async def wait():
        waiting = asyncio.create_task(vpr_launch.wait_until_active(
            context, SimpleNamespace(node_name='/nobody/vpr')))
        await asyncio.sleep(0)  # it starts
        context._set_is_shutdown(True)
        return await asyncio.wait_for(waiting, 60)

    try:
        assert not asyncio.run(wait())
    finally:
        context.locals.ros_adapter.shutdown()


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

names = ['robot_id', 'use_sim_time', 'query.max_rate', 'gates.max_drift']
values = call(GetParameters, '/r1/vpr/get_parameters', GetParameters.Request(names=names)).values
pathlib.Path(__file__).with_name('seen.json').write_text(json.dumps({
    'command': sys.argv[1:],
    'state': call(GetState, '/r1/vpr/get_state', GetState.Request()).current_state.label,
    'values': [values[0].integer_value, values[1].bool_value, values[2].double_value,
               values[3].double_value],
}))
sys.exit('bad.bag' in sys.argv[3])
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


@pytest.fixture
def launch(installed, tmp_path):
    """(arguments) -> exit code and output of the launch file."""
    def run(*arguments):
        finished = subprocess.run(
            [sys.executable, '-c', LAUNCH, LAUNCH_FILE, *arguments], capture_output=True,
            text=True, cwd=tmp_path, env=installed, timeout=120)
        return finished.returncode, finished.stdout + finished.stderr

    return run


def test_a_bag_waits_for_the_active_node_and_ends_everything(vpr_launch, launch, tmp_path):
    bag, params = tmp_path / 'my drive.mcap', tmp_path / 'mine.yaml'
    bag.touch()
    params.write_text('/**:\n  ros__parameters: {query: {max_rate: 7.0}, robot_id: 3}\n'
                      'r1:\n  vpr:\n    ros__parameters: {gates: {max_drift: 0.2}}\n')
    code, output = launch(
        'bag:=my drive.mcap', 'namespace:=r1', 'robot_id:=9', 'bag_rate:=2.0',
        'image_topic:=/camera/image', f'params_file:={params}', 'gates.max_drift:=0.3')
    assert code == 0, output
    assert output.count('process has finished cleanly') == 2, output
    seen = json.loads((tmp_path / 'bin/seen.json').read_text())
    assert seen['command'][:3] == ['bag', 'play', 'my drive.mcap']
    assert seen['command'][4:8] == ['--clock', '100', '--rate', '2.0']
    assert seen['state'] == 'active'
    assert seen['values'] == [9, True, 7.0, 0.3]


def test_a_player_that_fails_is_an_error(vpr_launch, launch, tmp_path):
    (tmp_path / 'bad.bag').touch()
    code, output = launch('bag:=bad.bag', 'namespace:=r1', 'model.weights:=hog')
    assert 'ros2-2 has failed: see its error above' in output
    assert output.count('[vpr_node-1]: process has finished cleanly') == 1, output
    assert code == 1


def test_a_bag_does_not_wait_for_a_node_that_cannot_be_configured(vpr_launch, launch, tmp_path):
    (tmp_path / 'bad.bag').touch()
    code, output = launch('bag:=bad.bag', 'weights:=none.pth')
    assert 'cannot configure: none.pth: no such file' in output
    assert 'the node could not be configured or activated, so the bag is not played' in output
    assert 'ros2-2' not in output
    assert code == 1


def test_a_node_that_cannot_start_is_an_error_in_one_sentence(vpr_launch, launch):
    code, output = launch('log_level:=loud')
    assert 'vpr_node cannot start: ' in output
    assert '--log-level loud' in output
    assert 'Traceback' not in output
    assert code == 1


def test_without_rviz_nothing_is_started(vpr_launch, launch):
    code, output = launch('rviz:=true')
    assert 'rviz:=true needs RViz, which is not installed: apt install' in output
    assert 'process started' not in output
    assert code == 1


# Plays nothing: writes down how it was called; the bag bad.bag fails.
RUN = """
import pathlib, sys
with pathlib.Path(__file__).with_name('runs').open('a') as file:
    print(*sys.argv[1:], file=file)
sys.exit('bag:=bad.bag' in sys.argv)
"""


@pytest.fixture
def run_sessions(vpr_launch, tmp_path):
    """(arguments) -> its exit code and output, and how `ros2` was called."""
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
        return (finished.returncode, finished.stdout + finished.stderr,
                runs.read_text().splitlines() if runs.exists() else [])

    return run


def test_bags_are_played_one_after_another_on_one_map(run_sessions):
    code, output, runs = run_sessions(
        'map:=town.vprmap', "bags:=monday.bag 'a bag' tuesday.bag", 'robot_id:=3',
        'pose_source:=none')
    assert runs == [
        f'launch {LAUNCH_FILE} bag:={bag} map:=town.vprmap robot_id:=3 pose_source:=none'
        for bag in ('monday.bag', 'a bag', 'tuesday.bag')], output
    assert output.count('process has finished cleanly') == 3
    assert code == 0


def test_a_run_that_fails_is_the_last_and_an_error(run_sessions):
    code, output, runs = run_sessions('map:=town.vprmap', 'bags:=bad.bag tuesday.bag')
    assert [run.split()[2] for run in runs] == ['bag:=bad.bag']
    assert 'bad-1 has failed: see its error above; bags that are not played: 1' in output
    assert code == 1


@pytest.mark.parametrize(('arguments', 'words'), [
    (['bags:=monday.bag none.bag'], 'none.bag does not exist'), (['bags:='], 'names no bag'),
    (["bags:='monday.bag"], "bags:='monday.bag cannot be read: No closing quotation"),
    (['bags:=monday.bag', 'pose_sorce:=none'], "do you mean 'pose_source'?"),
    (['bags:=monday.bag', 'bag:=tuesday.bag'], "do you mean 'bags'?")])
def test_nothing_is_played_with_a_wrong_argument(run_sessions, arguments, words):
    code, output, runs = run_sessions('map:=town.vprmap', *arguments)
    assert words in output
    assert (code, runs) == (1, [])


def test_the_sessions_need_a_map_and_bags(run_sessions):
    code, output, _ = run_sessions('bags:=monday.bag')
    assert "Included launch description missing required argument 'map'" in output
    assert code == 1
