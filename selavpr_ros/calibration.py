"""Stage 5: from evidence to the probability that two images show the same place.

A logistic model, in which more evidence never means less probability (Platt, "Probabilistic
outputs for support vector machines", 1999, for one score). `vpr calibrate` fits it and writes
the file; reading and using it needs numpy alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from selavpr_ros.errors import SettingError
from selavpr_ros.evidence import Match
from selavpr_ros.local_codec import FLOAT16, INT8
from selavpr_ros.models.base import VprModel

FORMAT = 1
SUFFIX = '.calibration.json'
# Evidence that a model may use, by the name in the file.
FEATURES = ('similarity', 'local_score', 'mean_similarity', 'inlier_score')


def evidence_of(match: Match) -> dict[str, float]:
    """The numbers that a model may use; NaN is not known."""
    return {name: float(getattr(match, name)) for name in FEATURES}


@dataclass(frozen=True)
class LogisticModel:
    """P = 1 / (1 + exp(-(intercept + sum of coefficient * feature))).

    Attributes:
        coefficients: by feature; not negative, so that more evidence is never less probable.
        intercept: in the same unit.
    """

    coefficients: Mapping[str, float]
    intercept: float

    def __post_init__(self) -> None:
        unknown = set(self.coefficients) - set(FEATURES)
        finite = all(map(math.isfinite, (self.intercept, *self.coefficients.values())))
        if unknown or not finite or min(self.coefficients.values(), default=-1.0) < 0.0:
            raise SettingError(
                f'a calibration with {dict(self.coefficients)} and {self.intercept}: it needs '
                f'finite, not negative coefficients of {", ".join(FEATURES)}')

    def probability(self, evidence: Mapping[str, float]) -> float:
        """In [0, 1]; NaN where one of its features is not known."""
        logit = self.intercept + sum(
            coefficient * evidence[name] for name, coefficient in self.coefficients.items())
        if math.isnan(logit):
            return math.nan
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(logit, 700.0))))


@dataclass(frozen=True)
class Calibration:
    """What one model's evidence means.

    Attributes:
        model_id: whose descriptors.
        codec: of the keyframes' local features.
        models: the first one whose features are all known counts: the richest comes first.
        unrelated_score: local score that images of different places have, in the mean; NaN for
            systems without local features.
        provenance: the data, in words.
        reliability: what was measured on data held out, e.g. its expected calibration error.
    """

    model_id: str
    codec: str
    models: Sequence[LogisticModel]
    unrelated_score: float
    provenance: str
    reliability: Mapping[str, Any] = field(default_factory=dict)

    def judge(self, match: Match) -> Match:
        """The same candidate with probability and surplus."""
        evidence = evidence_of(match)
        known = (model.probability(evidence) for model in self.models)
        probability = next((p for p in known if not math.isnan(p)), math.nan)
        surplus = (match.local_score - self.unrelated_score) / (1.0 - self.unrelated_score)
        return replace(match, probability=probability, surplus=surplus)

    def why_not(self, model_id: str, codec: str) -> str:
        """Why it says nothing of such a model's keyframes; empty if it does."""
        if model_id != self.model_id:
            return f'it is for {self.model_id}, not for {model_id}'
        # int8 features match as those in float16 do.
        if codec != self.codec and {codec, self.codec} != {FLOAT16, INT8}:
            return f'it is for local features in {self.codec}, not in {codec}'
        return ''

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        numbers = asdict(self)
        if math.isnan(self.unrelated_score):
            numbers['unrelated_score'] = None
        path.write_text(json.dumps({'format': FORMAT, **numbers}, indent=1) + '\n',
                        encoding='utf-8')

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote.

        Raises:
            SettingError: the file cannot be read, or is no calibration.
        """
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
        except (OSError, ValueError) as error:
            raise SettingError(f'{path} cannot be read as a calibration: {error}') from error
        if not isinstance(content, dict) or content.get('format') != FORMAT:
            raise SettingError(f'{path} is no calibration of format {FORMAT}: make one by '
                               '`vpr calibrate`')
        try:
            models = [LogisticModel(each['coefficients'], float(each['intercept']))
                      for each in content['models']]
            score = content['unrelated_score']
            return cls(content['model_id'], content['codec'], models,
                       math.nan if score is None else float(score), content['provenance'],
                       content['reliability'])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingError(
                f'{path} is a damaged calibration ({type(error).__name__}: {error}): make a new '
                'one by `vpr calibrate`') from error


def beside(weights: str, name: str) -> Path:
    """Where the calibration of weights is looked for: beside their file, else in the package."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path.with_name(path.name + SUFFIX)
    return Path(__file__).parent / 'weights' / (name + SUFFIX)


def find_calibration(
    setting: str, weights: str, model: VprModel, codec: str
) -> tuple[Calibration | None, str]:
    """The calibration that is in force.

    Args:
        setting: `gates.calibration`: a path, 'none', or empty for the one beside the weights.
        weights: `model.weights`.
        model: the one in use.
        codec: of the map's local features.

    Returns:
        It, or None and why there is none.

    Raises:
        SettingError: the path that was asked for is no calibration, or is another model's.
    """
    if setting == 'none':
        return None, 'gates.calibration is none'
    path = Path(setting).expanduser() if setting else beside(weights, model.name)
    if not setting and not path.is_file():
        return None, f'there is no {path.name}: make it by `vpr calibrate`'
    found = Calibration.load(path)
    reason = found.why_not(model.model_id, codec)
    if reason and setting:
        raise SettingError(f'gates.calibration = {path}: {reason}')
    return (None, f'{path.name}: {reason}') if reason else (found, '')
