"""Result folders of `vpr evaluate` and `vpr replay` side by side, from their metrics.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selavpr_ros.errors import FolderError
from selavpr_ros.evaluation.metrics import METRICS, RECALL_AT, told
from selavpr_ros.recordings.ground_truth import SamePlace
from selavpr_ros.recordings.param_file import read_params
from selavpr_ros.text import Row, flatten, size

HEAD = ('run', 'method', 'order', *(f'recall@{n}' for n in RECALL_AT), 'average precision',
        'recall at precision 1', 'true', 'false', 'p50 [ms]', 'keyframe')
TEXTS = 3  # leading columns that hold text
# What a replay was asked; figures of two replays can be compared only if this is the same.
ASKED_OF_REPLAY = ('bag', 'topic', 'ground_truth')
UNKNOWN = '-'


@dataclass(frozen=True)
class Result:
    """A result folder.

    Attributes:
        folder: path of the result folder.
        asked: the set and what counts as the same place, as data.
        settings: by dotted name, with the versions.
        lines: cells below HEAD without the run's name; one per method and way of ordering.
    """

    folder: Path
    asked: Mapping[str, Any]
    settings: Mapping[str, str]
    lines: Sequence[Row]


def _size(nbytes: float | None) -> str:
    return UNKNOWN if nbytes is None else size(nbytes)


def _recalls(recall: Mapping[str, float]) -> Iterator[str]:
    return (told(recall.get(str(n))) for n in RECALL_AT)


def _method_lines(method: Mapping[str, Any]) -> Iterator[Row]:
    """One line per way of ordering of a method of `vpr evaluate`."""
    latency = method.get('latency_ms', {})
    for way, recall in method['recall'].items():
        gate = method['gates'][way]
        # Medians are added, because not every stage is measured on the same images.
        stages = [stage['p50'] for name, stage in latency.items()
                  if name != 'local_matching' or way != 'global']
        yield (method['method'], way, *_recalls(recall), told(gate['average_precision']),
               told(gate['recall_at_precision_1']), UNKNOWN, UNKNOWN,
               told(sum(stages) if stages else None, 1),
               _size(method.get('bytes_per_keyframe', {}).get(way)))


def _evaluation(folder: Path, metrics: Mapping[str, Any]) -> Result:
    asked = dict(metrics['set'])
    asked = {'set': asked.pop('name'), **asked, 'same_place': SamePlace(**asked['same_place'])}
    lines = [line for method in metrics['methods'] for line in _method_lines(method)]
    return Result(folder, asked, dict(flatten(metrics['run'])), lines)


def _replay_line(metrics: Mapping[str, Any]) -> Row:
    truth, run = metrics['truth'] or {}, metrics['run']
    total = metrics['latency_ms'].get('total')
    order = 're-ranked' if run['reranked'] else 'global'
    return (
        metrics['model_id'], order, *_recalls(truth.get('recall', {})),
        told(truth.get('average_precision')), told(truth.get('recall_at_precision_1')),
        *(str(truth.get(f'{verdict}_closures', UNKNOWN)) for verdict in ('true', 'false')),
        told(total and total['p50'], 1), _size(metrics['bytes_per_keyframe']))


def _replay(folder: Path, metrics: Mapping[str, Any]) -> Result:
    run, truth = metrics['run'], metrics['truth'] or {}
    asked = {**{name: run[name] for name in ASKED_OF_REPLAY}, 'images': metrics['images'],
             'same_place': SamePlace(**truth['same_place']) if truth else None}
    facts = {name: value for name, value in run.items() if name not in ASKED_OF_REPLAY}
    settings = {**dict(flatten(read_params(folder / 'settings.yaml'))), **dict(flatten(facts))}
    return Result(folder, asked, settings, [_replay_line(metrics)])


def read_result(folder: Path) -> Result:
    """Read a result folder.

    Raises:
        FolderError: it is no result folder, or cannot be read.
        SettingError: the settings of a replay cannot be read.
    """
    path = folder / METRICS
    if not path.is_file():
        raise FolderError(f'{folder} has no {METRICS}: give result folders of vpr evaluate or '
                          'vpr replay')
    try:
        metrics = json.loads(path.read_text(encoding='utf-8'))
        if 'methods' in metrics:
            return _evaluation(folder, metrics)
        return _replay(folder, metrics)
    except (OSError, ValueError) as error:
        raise FolderError(f'{path} cannot be read: {error}') from error
    except (AttributeError, KeyError, TypeError) as error:
        raise FolderError(f'{path} is of neither vpr evaluate nor vpr replay, or of an older '
                          f'version: {error!r}') from error


def check_same(results: Sequence[Result]) -> None:
    """Refuse results of different questions.

    Raises:
        FolderError: their sets, or what counts as the same place, differ; the message says how.
    """
    first = results[0]
    for other in results[1:]:
        names = [*first.asked, *(name for name in other.asked if name not in first.asked)]
        for name in names:
            one, two = first.asked.get(name, 'not told'), other.asked.get(name, 'not told')
            if one != two:
                raise FolderError(
                    f"{first.folder} and {other.folder} were asked different questions, so their "
                    f"figures do not compare: {name} is '{one}' and '{two}'; --any-set puts them "
                    'side by side all the same')


def run_names(results: Sequence[Result]) -> list[str]:
    """Names of the folders; their paths where two have the same name."""
    names = [result.folder.resolve().name for result in results]
    return names if len(set(names)) == len(names) else [str(r.folder) for r in results]


def result_rows(results: Sequence[Result]) -> list[Row]:
    """Head and lines of all results."""
    return [HEAD, *((name, *line) for name, result in zip(run_names(results), results, strict=True)
                    for line in result.lines)]


def difference_rows(results: Sequence[Result]) -> list[Row]:
    """Head, and the settings and versions that all of them have and that differ; a column each."""
    shared = [name for name in results[0].settings
              if all(name in result.settings for result in results)]
    values = {name: [result.settings[name] for result in results] for name in shared}
    return [('setting', *run_names(results)),
            *((name, *column) for name, column in values.items() if len(set(column)) > 1)]
