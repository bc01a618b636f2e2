"""Every method on every public set: the table and the chart of the comparison page.

  python benchmarks/compare.py DATA
  python benchmarks/compare.py DATA --device cuda

DATA holds gardenspoint/{day_left,day_right}, rtabmap_loop/{images,loops.csv} and
campus_keyframes/{images,poses.csv}; docs/comparison.md says what they are. Results are kept in
results/comparison and not measured again, so new weights take minutes, and an interrupted run
continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from selavpr_ros.errors import VprError
from selavpr_ros.evaluation.baselines import (
    ALL_MATCHED,
    ORB_ID,
    Thumbnail,
    evaluate_orb,
    load_untrained,
)
from selavpr_ros.evaluation.metrics import RECALL_AT
from selavpr_ros.evaluation.recall import GLOBAL, RERANKED, TOP_K, Evaluation, evaluate
from selavpr_ros.evaluation.recall_tables import describe_set, set_facts
from selavpr_ros.evaluation.result_folder import versions
from selavpr_ros.evaluation.truth import EvaluationSet, read_frames, read_pairs, read_positions
from selavpr_ros.models import VprModel, choose_device, load_model
from selavpr_ros.text import markdown_table

ROOT = Path(__file__).parents[1]
PAGE, CHART = ROOT / 'docs/comparison.md', ROOT / 'docs/comparison.png'
BEGIN, END = '<!-- written by benchmarks/compare.py: -->', '<!-- up to here -->'
SEEDS = 3

# Recall@1, 5 and 10 of one row on one set.
Recalls = tuple[float, ...]


@dataclass(frozen=True)
class Method:
    """A method, or one seed of it, that is measured on every set.

    Attributes:
        label: its label in the table; methods with the same label are seeds of one line.
        id: name under which results are kept; a new id is measured anew.
        ask: function that evaluates the method on a set.
    """

    label: str
    id: str
    ask: Callable[[EvaluationSet], Evaluation]


@dataclass(frozen=True)
class Line:
    """One line of the table: its label, and the recalls on every set."""

    label: str
    recalls: list[Recalls]


def read_sets(data: Path) -> dict[str, EvaluationSet]:
    """The sets by their names on the page."""
    gardens, loop = data / 'gardenspoint', data / 'rtabmap_loop'
    return {
        'Gardens Point': read_frames(gardens / 'day_left', gardens / 'day_right'),
        'corridor': read_pairs(loop / 'images', loop / 'loops.csv'),
        'campus': read_positions(data / 'campus_keyframes', exclude=0),
    }


def list_methods(device: str, seeds: int) -> Iterator[Method]:
    """All methods, the quick ones first."""

    def of_model(label: str, model: VprModel) -> Method:
        return Method(label, model.model_id, partial(evaluate, model, progress=True))

    yield of_model('thumbnail', Thumbnail())
    for name in ('hog', 'embedded'):
        yield of_model(name, load_model(name, device=device))
    yield Method('ORB', ORB_ID, partial(evaluate_orb, progress=True))
    for seed in range(seeds):
        yield of_model('untrained', load_untrained(seed=seed).to(choose_device(device)))


# ---- measuring, once ----------------------------------------------------------------------------


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    return {
        'method': evaluation.method, 'set': set_facts(evaluation.evaluation_set),
        'top_k': TOP_K,
        'recall': {way: list(evaluation.recalls(way).values()) for way in evaluation.rankings}}


def measure(method: Method, asked: EvaluationSet, folder: Path) -> dict[str, Recalls]:
    """Recalls by way of ordering; read from the folder if they were measured before."""
    file = folder / f'{asked.name}-{re.sub(r"[^A-Za-z0-9.]+", "_", method.id)}.json'
    known = json.loads(file.read_text()) if file.is_file() else {}
    if (known.get('set'), known.get('top_k')) != (set_facts(asked), TOP_K):
        known = _summary(method.ask(asked))
        file.write_text(json.dumps(known, indent=1) + '\n')
    return {way: tuple(recalls) for way, recalls in known['recall'].items()}


def measure_all(
    methods: Sequence[Method], sets: dict[str, EvaluationSet], folder: Path
) -> dict[tuple[str, str], list[list[Recalls]]]:
    """Recalls per (label, way): for every seed, those on every set."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, str], list[list[Recalls]]] = {}
    for method in tqdm(methods, unit='method'):
        by_set = [measure(method, asked, folder) for asked in sets.values()]
        for way in by_set[0]:
            found.setdefault((method.label, way), []).append([recalls[way] for recalls in by_set])
    return found


# ---- the page -----------------------------------------------------------------------------------


def _over_seeds(
    runs: list[list[Recalls]], choose: Callable[[Sequence[float]], float]
) -> list[Recalls]:
    """One figure from those of all seeds, for every set and every n."""
    return [tuple(choose(values) for values in zip(*of_set, strict=True))
            for of_set in zip(*runs, strict=True)]


def make_lines(found: dict[tuple[str, str], list[list[Recalls]]]) -> Iterator[Line]:
    """The lines of the table: baselines first, the package's own model last."""
    words = {GLOBAL: '', RERANKED: ', re-ranked', ALL_MATCHED: ', matched with every image'}
    order = ('thumbnail', 'ORB', 'hog', 'untrained', 'embedded')
    for (label, way), runs in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        if len(runs) == 1:
            yield Line(f'{label}{words[way]}', runs[0])
            continue
        yield Line(f'{label}{words[way]}: median of {len(runs)}',
                   _over_seeds(runs, statistics.median))
        yield Line(f'{label}{words[way]}: best of {len(runs)}', _over_seeds(runs, max))


def make_table(lines: Sequence[Line], sets: dict[str, EvaluationSet]) -> str:
    """The lines in Markdown; the best recall@1 of every set is bold."""
    best = [max(line.recalls[number][0] for line in lines) for number in range(len(sets))]

    def cell(recalls: Recalls, best: float) -> str:
        first, *others = (f'{value:.3f}' for value in recalls)
        return ' / '.join([f'**{first}**' if recalls[0] == best else first, *others])

    head = ('', *(f'{name} ({len(asked.answerable)})' for name, asked in sets.items()))
    return markdown_table([head, *(
        (line.label, *map(cell, line.recalls, best)) for line in lines)], texts=1)


def make_section(
    lines: Sequence[Line], sets: dict[str, EvaluationSet], methods: Sequence[Method]
) -> str:
    """What stands between the marks of the page."""
    ids = ', '.join(f'`{method.id}`' for method in methods if method.label != 'untrained')
    used = ', '.join(f'{name} {version}' for name, version in versions().items())
    what = '\n'.join(f'* {name}: {describe_set(asked)}' for name, asked in sets.items())
    ns = ' / '.join(f'@{n}' for n in RECALL_AT)
    return (f'Recall{ns}, number of queries in brackets:\n\n{make_table(lines, sets)}\n{what}\n\n'
            f'![Recall@1 of every method]({CHART.name})\n\nMeasured: {ids}; with {used}.\n')


def write_section(page: Path, section: str) -> None:
    """Replace what stands between the marks; the rest of the page stays."""
    before, _, rest = page.read_text(encoding='utf-8').partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{page}: needs the lines '{BEGIN}' and '{END}'")
    page.write_text(f'{before}{BEGIN}\n\n{section}\n{END}{after}', encoding='utf-8')


def _draw_set(axes: Axes, title: str, labels: Sequence[str], firsts: Sequence[float]) -> None:
    rows = range(len(labels))
    own = ['#2c7bb6' if label.startswith('embedded') else '#9a9a9a' for label in labels]
    axes.barh(rows, firsts, color=own, height=0.7)
    for row, value in zip(rows, firsts, strict=True):
        axes.text(value - 0.02, row, f'{value:.3f}', va='center', ha='right', color='white',
                  fontsize=9)
    axes.set(xlim=(0, 1), title=title, yticks=rows)
    axes.invert_yaxis()
    axes.tick_params(axis='y', length=0)
    for side in ('top', 'right', 'left'):
        axes.spines[side].set_visible(False)


def draw_chart(lines: Sequence[Line], sets: dict[str, EvaluationSet]) -> Figure:
    """Recall@1: a bar per line, a panel per set."""
    figure = Figure(figsize=(11, 0.36 * len(lines) + 0.9), dpi=110, layout='constrained')
    panels = cast(np.ndarray, figure.subplots(1, len(sets), sharey=True))
    labels = [line.label for line in lines]
    for number, (axes, (name, asked)) in enumerate(zip(panels, sets.items(), strict=True)):
        title = f'{name}, {len(asked.answerable)} queries'
        _draw_set(axes, title, labels, [line.recalls[number][0] for line in lines])
    panels[0].set_yticks(range(len(labels)), labels)
    figure.supxlabel('recall@1', fontsize=10)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, metavar='DATA', help='folder of the sets')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, auto (default: cpu)')
    parser.add_argument('--seeds', type=int, default=SEEDS,
                        help='seeds of the untrained network, 0 to leave it out; each one takes '
                        'as long as the trained network (default: %(default)s)')
    args = parser.parse_args()
    sets, methods = read_sets(args.data), list(list_methods(args.device, args.seeds))
    lines = list(make_lines(measure_all(methods, sets, ROOT / 'results/comparison')))
    section = make_section(lines, sets, methods)
    write_section(PAGE, section)
    draw_chart(lines, sets).savefig(CHART)
    print(section)


if __name__ == '__main__':
    try:
        main()
    except VprError as error:
        sys.exit(str(error))
