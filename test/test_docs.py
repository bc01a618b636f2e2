"""README and docs/: commands, launch arguments, settings and files that they name exist.

The links between the pages of docs/ are checked by `mkdocs build --strict`, in `make lint`.
"""

import ast
import re
import shlex
from pathlib import Path

import pytest

from selavpr_ros.cli.main import make_parser
from selavpr_ros.settings import describe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
WITH_LINKS = ['README.md', 'CONTRIBUTING.md', 'benchmarks/README.md',
              'selavpr_ros/weights/README.md']
SETTINGS = {setting.name for setting in describe()}
GROUPS = sorted({name.partition('.')[0] for name in SETTINGS if '.' in name})


def commands(page):
    """Every command of a page's bash blocks, as words, without its comment."""
    for block in re.findall(r'```bash\n(.*?)```', page.read_text(), re.DOTALL):
        for line in block.replace('\\\n', ' ').splitlines():
            yield shlex.split(line, comments=True)


def code(page):
    """Everything that a page shows as code inside of a sentence."""
    return re.findall(r'(?<!`)`([^`\n]+)`(?!`)', page.read_text())


def launch_arguments(name):
    tree = ast.parse((ROOT / 'launch' / name).read_text())
    (table,) = (node.value for node in tree.body if isinstance(node, ast.Assign)
                and [target.id for target in node.targets] == ['ARGUMENTS'])
    return {ast.literal_eval(key) for key in table.keys}


OF_ONE_RUN = launch_arguments('vpr.launch.py')
LAUNCHES = {'vpr.launch.py': OF_ONE_RUN,
            'multi_session.launch.py': OF_ONE_RUN | launch_arguments('multi_session.launch.py')}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
class TestPage:
    def test_every_vpr_command_is_taken(self, page):
        for words in commands(page):
            if words[:1] == ['vpr']:
                make_parser(words[1]).parse_args(words[1:])

    def test_every_verb_in_a_sentence_exists_with_its_options(self, page):
        for words in (text.split() for text in code(page) if text.startswith('vpr ')):
            verbs = make_parser(words[1])._subparsers._group_actions[0].choices
            known = verbs[words[1]].format_help()
            for option in (word for word in words if word.startswith('--')):
                assert option in known, ' '.join(words)

    def test_every_launch_argument_exists(self, page):
        for words in commands(page):
            if words[:3] == ['ros2', 'launch', 'selavpr_ros']:
                given = {word.partition(':=')[0] for word in words[4:] if ':=' in word}
                assert given <= LAUNCHES[words[3]] | set(SETTINGS), ' '.join(words)

    def test_every_setting_exists(self, page):
        if page.name == 'extending.md':
            return  # the walk through a change names settings that are not there yet
        named = re.compile(rf'(?<![\w/.])((?:{"|".join(GROUPS)})\.[a-z0-9_]+)')
        texts = [*code(page), *(' '.join(words) for words in commands(page))]
        for name in (name for text in texts for name in named.findall(text)):
            assert name in SETTINGS, f'{page.name}: {name}'

    def test_every_file_of_the_repository_exists(self, page):
        folders = 'benchmarks|config|integrations|selavpr_ros|selavpr_msgs|scripts|test'
        for name in re.findall(rf'`((?:{folders})/[\w/.-]+)`', page.read_text()):
            assert (ROOT / name).exists(), f'{page.name}: {name}'


@pytest.mark.parametrize('page', WITH_LINKS)
def test_every_link_outside_of_the_site_leads_somewhere(page):
    for link in re.findall(r'\]\(([^)#]+)', (ROOT / page).read_text()):
        if not link.startswith('https://'):
            assert (ROOT / page).parent.joinpath(link).exists(), f'{page}: {link}'
