"""vpr: visual place recognition for ROS 2 from the command line."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import sys
from pathlib import Path

from selavpr_ros.errors import VprError

# Package that only some verbs import -> the extra of setup.py that installs it.
EXTRAS = {'jinja2': 'evaluation', 'matplotlib': 'evaluation'}

# Every other file of this folder is a verb.
VERBS = sorted(
    path.stem for path in Path(__file__).parent.glob('*.py')
    if path.stem not in ('__init__', 'main')
)


def _summary(verb: str) -> str:
    """First line of a verb's docstring, read without importing it."""
    text = (Path(__file__).parent / f'{verb}.py').read_text(encoding='utf-8')
    return (ast.get_docstring(ast.parse(text)) or '').partition('\n')[0]


def make_parser(verb: str | None) -> argparse.ArgumentParser:
    """Build the parser; only the file of `verb` is imported, so that help is instant."""
    parser = argparse.ArgumentParser(prog='vpr', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', metavar='VERB', required=True)
    for name in VERBS:
        command = name.replace('_', '-')
        sub = verbs.add_parser(command, help=_summary(name))
        if command == verb:
            module = importlib.import_module(f'selavpr_ros.cli.{name}')
            sub.description = module.__doc__
            sub.formatter_class = argparse.RawDescriptionHelpFormatter
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; known errors become one line and exit code 1."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # As in vpr_node: torch's threads must not spin long when other programs need the cores.
    os.environ.setdefault('GOMP_SPINCOUNT', '100000')
    verb = next((word for word in arguments if not word.startswith('-')), None)
    parsed = make_parser(verb).parse_args(arguments)
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, e.g. `head`, has ended; Python's own last flush must not fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        print(f'vpr {parsed.verb}: needs {error.name}, which is not installed: '
              f"pip install 'selavpr_ros[{EXTRAS[error.name]}]'", file=sys.stderr)
        return 1
    except VprError as error:
        print(f'vpr {parsed.verb}: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f'vpr {parsed.verb}: interrupted', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
