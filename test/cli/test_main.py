from __future__ import annotations

import subprocess
import sys

import pytest

import selavpr_ros.cli.replay
from selavpr_ros.cli.main import EXTRAS, VERBS, main
from selavpr_ros.errors import BagError

HEAVY = ('torch', 'timm', 'faiss', 'cv2', 'matplotlib', 'rosbags', 'sqlite3', 'rclpy')


def test_help_lists_the_verbs(capsys):
    with pytest.raises(SystemExit) as stop:
        main(['--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert {'replay', 'simulate'} <= set(VERBS)
    listed = [line.split()[0] for line in text.splitlines() if line.startswith('    ')]
    assert set(listed) >= {verb.replace('_', '-') for verb in VERBS}
    assert 'Run a recorded bag through the recogniser' in ' '.join(text.split())


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_teaches_with_its_docstring(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([verb.replace('_', '-'), '--help'])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 5


@pytest.mark.parametrize('words', [
    ['--help'], *([verb.replace('_', '-'), '--help'] for verb in VERBS)])
def test_help_imports_nothing_heavy(words):
    code = ('import sys\n'
            'from selavpr_ros.cli.main import main\n'
            'try:\n'
            f'    main({words})\n'
            'except SystemExit:\n'
            f'    print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == '[]'
    assert 'usage: vpr' in done.stdout


@pytest.mark.parametrize('words', [[], ['fly'], ['replay']])
def test_wrong_usage_is_told_and_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert 'usage: vpr' in capsys.readouterr().err


def _fail_with(monkeypatch, error: BaseException) -> None:
    def run(args):
        raise error

    monkeypatch.setattr(selavpr_ros.cli.replay, 'run', run)


def test_a_known_error_is_one_line(monkeypatch, capsys):
    _fail_with(monkeypatch, BagError('no bag, take another'))
    assert main(['replay', 'x']) == 1
    assert capsys.readouterr().err == 'vpr replay: no bag, take another\n'


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    _fail_with(monkeypatch, KeyboardInterrupt())
    assert main(['replay', 'x']) == 130
    assert capsys.readouterr().err == 'vpr replay: interrupted\n'


def test_an_unknown_error_keeps_its_traceback(monkeypatch):
    _fail_with(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(['replay', 'x'])


@pytest.mark.parametrize('name', EXTRAS)
def test_a_missing_extra_is_named_in_one_line(name, monkeypatch, capsys):
    _fail_with(monkeypatch, ModuleNotFoundError(name=name))
    assert main(['replay', 'x']) == 1
    assert capsys.readouterr().err == (
        f"vpr replay: needs {name}, which is not installed: "
        f"pip install 'selavpr_ros[{EXTRAS[name]}]'\n")


def test_any_other_missing_module_keeps_its_traceback(monkeypatch):
    _fail_with(monkeypatch, ModuleNotFoundError(name='selavpr_ros.nothing'))
    with pytest.raises(ModuleNotFoundError):
        main(['replay', 'x'])


def test_the_module_runs_as_a_program():
    done = subprocess.run([sys.executable, '-m', 'selavpr_ros.cli.main', 'replay', '/no/such.bag'],
                          capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr == 'vpr replay: /no/such.bag does not exist\n'
