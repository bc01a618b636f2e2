import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import laps
import pytest
from bags import write_image_bag

import selavpr_ros
from selavpr_ros.cli.main import EXTRAS

ROOT = Path(__file__).parents[1]


def manifest(folder):
    return ElementTree.parse(ROOT / folder / 'package.xml').getroot()


def run(*command, **options):
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def message_files():
    return sorted(file.name for file in (ROOT / 'selavpr_msgs/msg').iterdir())


def test_name_and_version_are_the_same_everywhere():
    name, version = run(sys.executable, 'setup.py', '--name', '--version').split()[-2:]
    assert name == manifest('.').findtext('name') == selavpr_ros.__name__
    assert version == manifest('.').findtext('version') == selavpr_ros.__version__
    assert version == manifest('selavpr_msgs').findtext('version')


def test_the_resource_marker_is_named_like_the_package():
    assert (ROOT / 'resource' / manifest('.').findtext('name')).is_file()


def test_every_folder_with_python_files_is_a_package():
    folders = {file.parent for file in (ROOT / 'selavpr_ros').rglob('*.py')}
    assert [folder for folder in folders if not (folder / '__init__.py').is_file()] == []


def test_every_file_of_the_package_is_installed(tmp_path):
    run(sys.executable, 'setup.py', '--quiet', 'build', '--build-base', str(tmp_path / 'build'),
        '--build-lib', str(tmp_path / 'lib'))
    kept = [file.relative_to(ROOT) for file in (ROOT / 'selavpr_ros').rglob('*')
            if file.is_file() and '__pycache__' not in file.parts]
    assert [str(file) for file in kept if not (tmp_path / 'lib' / file).is_file()] == []


def test_every_message_is_built():
    listed = re.findall(r'msg/(\w+\.msg)', (ROOT / 'selavpr_msgs/CMakeLists.txt').read_text())
    assert sorted(listed) == message_files()


def test_every_message_has_one_constant_a_line():
    for name in message_files():
        for line in (ROOT / 'selavpr_msgs/msg' / name).read_text().splitlines():
            assert line.partition('#')[0].count('=') <= 1, f'{name}: {line}'


def test_every_message_can_be_made():
    msg = pytest.importorskip('selavpr_msgs.msg', reason='source scripts/env.sh')
    for name in message_files():
        getattr(msg, name.removesuffix('.msg'))()


def requirements():
    """What setup.py asks for: names of packages, of the base ('') and of each extra."""
    code = ("import json, setuptools; setuptools.setup = lambda **told: print(json.dumps("
            "{'': told['install_requires'], **told['extras_require']}))\n"
            "exec(open('setup.py').read())")
    told = json.loads(run(sys.executable, '-c', code))
    return {extra: {re.match(r'[\w-]+', line)[0] for line in lines}
            for extra, lines in told.items()}


def test_errors_name_the_extras_that_setup_py_has():
    required = requirements()
    for name, extra in EXTRAS.items():
        assert name in required[extra]
        assert name not in required['']


def test_set_up_installs_every_extra():
    extras = set(requirements()) - {''}
    installed = re.search(r"--editable '\.\[(.*)\]'", (ROOT / 'scripts/setup.sh').read_text())
    assert set(installed[1].split(',')) == extras


@pytest.mark.parametrize('module', ['ros.node', 'cli.build_map', 'cli.map_info',
                                    'cli.merge_maps'])
def test_a_robot_needs_no_extra(module):
    pytest.importorskip('rclpy', reason='source scripts/env.sh')
    code = f'import selavpr_ros.{module}, sys; print(*sys.modules)'
    loaded = set(run(sys.executable, '-c', code).split())
    assert f'selavpr_ros.{module}' in loaded
    assert {*EXTRAS, 'pytorch_metric_learning', 'tensorboard', 'gtsam', 'pymilvus',
            'selavpr_ros.simulation', 'selavpr_ros.training'}.isdisjoint(loaded)


BLOCKED = """
import sys
sys.modules.update(dict.fromkeys({names}))  # importing one of them fails
from selavpr_ros.cli.main import main
sys.exit(main({arguments}))
"""


def test_the_verbs_for_maps_need_no_extra(tmp_path):
    monday = str(write_image_bag(tmp_path / 'monday.bag', laps.images()[:3]))
    tuesday = str(write_image_bag(tmp_path / 'tuesday.bag', laps.images()[3:6]))
    first, second, both = (str(tmp_path / f'{name}.vprmap') for name in ('a', 'b', 'both'))
    extras = requirements()
    names = {name.replace('-', '_') for extra in ('evaluation', 'train', 'backend', 'milvus')
             for name in extras[extra] - extras['']}
    assert {'matplotlib', 'gtsam', 'pymilvus', 'tensorboard'} <= names
    for arguments in (
        ['models'], ['build-map', monday, '-o', first, '--weights', 'hog'],
        ['build-map', tuesday, '-o', second, '--weights', 'hog', '--robot-id', '1'],
        ['merge-maps', first, second, '-o', both], ['map-info', both],
    ):
        told = run(sys.executable, '-c', BLOCKED.format(names=names, arguments=arguments))
    assert 'monday' in told
    assert 'tuesday' in told


@pytest.fixture
def checkout(tmp_path):
    """A folder with scripts/env.sh and a .venv that set-up has made, as far as env.sh can see."""
    (tmp_path / 'scripts').mkdir()
    (tmp_path / 'scripts/env.sh').write_text((ROOT / 'scripts/env.sh').read_text())
    (tmp_path / '.venv/bin').mkdir(parents=True)
    (tmp_path / '.venv/bin/python').symlink_to(sys.executable)
    return tmp_path


def variables_after(script, **environment):
    """The variables of a bash that runs `script` with unset variables as errors."""
    output = run('bash', '-euc', f'{script}; /usr/bin/env -0',
                 env={'PATH': '/usr/bin:/bin', **environment})
    return dict(entry.split('=', 1) for entry in output.split('\0') if entry)


def test_env_sh_puts_the_venv_first(checkout):
    variables = variables_after(f'source {checkout}/scripts/env.sh', LD_LIBRARY_PATH='/opt/lib')
    venv = f'{checkout}/.venv'
    assert variables['PATH'] == f'{venv}/bin:/usr/bin:/bin'
    assert variables['LD_LIBRARY_PATH'] == f'{venv}/lib:/opt/lib'
    assert variables['AMENT_PREFIX_PATH'] == venv
    assert variables['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'LOCALHOST'


def test_env_sh_twice_is_env_sh_once(checkout):
    source = f'source {checkout}/scripts/env.sh'
    assert variables_after(f'{source}; {source}') == variables_after(source)


def test_env_sh_keeps_what_the_user_chose(checkout):
    source = f'source {checkout}/scripts/env.sh'
    chosen = variables_after(source, ROS_AUTOMATIC_DISCOVERY_RANGE='SUBNET')
    assert chosen['ROS_AUTOMATIC_DISCOVERY_RANGE'] == 'SUBNET'
    assert 'ROS_AUTOMATIC_DISCOVERY_RANGE' not in variables_after(source, ROS_DISTRO='jazzy')


def test_env_sh_without_a_venv_says_what_to_do(checkout):
    (checkout / '.venv/bin/python').unlink()
    finished = subprocess.run(['bash', '-c', f'source {checkout}/scripts/env.sh'],
                              capture_output=True, text=True)
    assert finished.returncode != 0
    assert "run 'make setup' first" in finished.stderr


def test_setup_names_every_missing_system_package(checkout):
    for file in ('setup.py', 'setup.cfg', 'scripts/setup.sh', 'scripts/ros_wheels.txt'):
        (checkout / file).write_text((ROOT / file).read_text())
    (checkout / 'selavpr_msgs').mkdir()
    tools = checkout / 'tools'
    tools.mkdir()
    for tool in ('cat', 'cut', 'dirname', 'find', 'sha256sum', 'sort', 'xargs', 'make'):
        (tools / tool).symlink_to(shutil.which(tool))

    finished = subprocess.run([shutil.which('bash'), checkout / 'scripts/setup.sh'],
                              capture_output=True, text=True,
                              env={'PATH': str(tools), 'PYTHON': sys.executable})
    assert finished.returncode == 1
    assert finished.stderr.splitlines() == [
        'selavpr_ros: not on this machine: g++ cmake. Run: sudo apt install g++ cmake'
    ]


WITHOUT_EXTRAS = """
import sys
from contextlib import contextmanager
sys.modules['jinja2'] = sys.modules['matplotlib'] = None
from selavpr_ros.cli import demo, main

@contextmanager
def no_work(args):
    sys.exit('minutes of work come first')
    yield

demo._bags = no_work
sys.exit(main.main(['demo', '--days', '1']))
"""


def test_a_demo_without_the_extra_of_reports_says_so_before_it_drives() -> None:
    done = subprocess.run([sys.executable, '-c', WITHOUT_EXTRAS], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'selavpr_ros[evaluation]' in done.stderr
    assert 'minutes of work' not in done.stderr
