"""What a page and its figures read from a ranking as plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

from geocollapse.measures import FROM_TRAINING

if TYPE_CHECKING:
    from geocollapse.estimate import IntervalDict
    from geocollapse.ranking.json_form import PairDict, RankedModelDict, RankingDict

ACCURACY = "accuracy"
PREDICTED = "predicted_accuracy"
SHARES = (ACCURACY, PREDICTED)  # shown in per cent
LONGEST_LABEL = 40  # in a figure

_STEP = re.compile(r"(?:(step|epoch|checkpoint|ckpt)?[ _=-]*)?(\d+)(?:\.\w+)?", re.IGNORECASE)


class ScoreLabel(Protocol):
    """The part of a measure that names it on a page."""

    @property
    def full_name(self) -> str:
        """Name where it stands alone."""

    @property
    def short(self) -> str:
        """Name in a column."""

    @property
    def unit(self) -> str:
        """Unit on an axis."""

    @property
    def better(self) -> Literal["lower", "higher"] | None:
        """The better direction; None if neither is."""


@dataclass(frozen=True)
class Named:
    """A score as a page calls it; by default by its key."""

    full_name: str
    short: str
    unit: str = "no unit"
    better: Literal["lower", "higher"] | None = None

    @property
    def direction(self) -> str:
        """The better direction in words."""
        return f"{self.better} is better" if self.better else ""

    @property
    def axis(self) -> str:
        """Name, direction and unit; every reader knows the direction of an accuracy."""
        if self.unit == "%":
            return f"{self.full_name} [%]"
        direction = f", {self.direction}" if self.better else ""
        return f"{self.short}{direction} [{self.unit}]"


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval; NaN where one is unknown."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, found: IntervalDict | None, *, scale: float = 1.0) -> Interval:
        """Read the JSON form, times ``scale``."""
        if found is None:
            return cls(math.nan, math.nan, math.nan)
        low, high = found["ci95"]
        return cls(*(scale * _number(part) for part in (found["value"], low, high)))

    @property
    def is_known(self) -> bool:
        """True if there is a value."""
        return math.isfinite(self.value)

    @property
    def has_range(self) -> bool:
        """True if there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __neg__(self) -> Interval:
        return Interval(-self.value, -self.high, -self.low)


@dataclass(frozen=True)
class RankingPage:
    """A ranking with the names of its scores.

    Attributes:
        ranking: as plain data, from ``Ranking.to_dict`` or a stored ranking.json.
        scores: names of scores by key.
    """

    ranking: RankingDict
    scores: Mapping[str, ScoreLabel]

    @property
    def models(self) -> list[RankedModelDict]:
        """Best first."""
        return self.ranking["models"]

    @property
    def is_measured(self) -> bool:
        """True if few-shot accuracy was measured."""
        return any(self.interval(model, ACCURACY).is_known for model in self.models)

    @property
    def ranked_by(self) -> Named:
        """The quantity that orders the models."""
        return self.named(self.ranking["ranked_by"])

    @cached_property
    def steps(self) -> list[int]:
        """The training step of each model; empty unless all labels are steps of one run."""
        found = [_STEP.fullmatch(model["label"].strip()) for model in self.models]
        steps = [int(match[2]) for match in found if match]
        return steps if len(steps) == len(found) == len(set(steps)) > 1 else []

    @property
    def what(self) -> str:
        """The word for what is ranked."""
        return "checkpoint" if self.steps else "model"

    @cached_property
    def score_names(self) -> list[str]:
        """Every score, the best agreeing first, then in the order of the file.

        Scores of the training are left out where no model has a record of it. The predicted
        accuracy has its own place on a page.
        """
        names = dict.fromkeys(
            name
            for model in self.models
            for name, score in model["scores"].items()
            if name != PREDICTED and (score["valid"] or name not in FROM_TRAINING)
        )
        place = {name: i for i, name in enumerate(names)}
        return sorted(names, key=lambda name: (*self._disagreement(name), place[name]))

    def named(self, name: str) -> Named:
        """Names, unit and direction of a score or an accuracy."""
        shots = self.ranking["k_shot"]
        if name == ACCURACY:
            return Named(f"{shots}-shot accuracy", "accuracy", "%", "higher")
        if name == PREDICTED:
            return Named(f"predicted {shots}-shot accuracy", "predicted", "%", "higher")
        known = self.scores.get(name)
        if known is None:
            words = name.replace("_", " ")
            return Named(words, words)
        return Named(known.full_name, known.short, known.unit, known.better)

    def interval(self, model: RankedModelDict, name: str) -> Interval:
        """A score, or an accuracy in per cent, of one model."""
        if name == ACCURACY:
            return Interval.of(model["accuracy"], scale=100.0)
        if name == PREDICTED:
            return Interval.of(model["predicted_accuracy"], scale=100.0)
        score = model["scores"].get(name)
        if score is None or not score["valid"]:
            return Interval.of(None)
        low, high = score["ci95"]
        return Interval(_number(score["value"]), _number(low), _number(high))

    def tau(self, name: str) -> Interval:
        """Kendall's tau of a score with the measured accuracy."""
        found = self.ranking["agreement"].get(name)
        if found is None:
            return Interval.of(None)
        low, high = found["ci95"]
        return Interval(_number(found["tau"]), _number(low), _number(high))

    def difference(self, first: str, second: str) -> tuple[Interval, PairDict] | None:
        """What one model has over another in what ranks them, accuracies in points."""
        scale = 100.0 if self.ranking["ranked_by"] in SHARES else 1.0
        pair = self._pairs.get((first, second))
        if pair is not None:
            return Interval.of(pair["difference"], scale=scale), pair
        pair = self._pairs.get((second, first))
        return None if pair is None else (-Interval.of(pair["difference"], scale=scale), pair)

    def picked_by(self, name: str) -> RankedModelDict | None:
        """The model that a score would pick; None where it has no direction or no value."""
        better = self.named(name).better
        known = [model for model in self.models if self.interval(model, name).is_known]
        if better is None or not known:
            return None
        sign = 1.0 if better == "higher" else -1.0
        return max(known, key=lambda model: sign * self.interval(model, name).value)

    @cached_property
    def _pairs(self) -> dict[tuple[str, str], PairDict]:
        return {(pair["first"], pair["second"]): pair for pair in self.ranking["pairs"]}

    def _disagreement(self, name: str) -> tuple[bool, bool, float]:
        """A sort key: scores that all models have first, then by falling tau."""
        found = self.ranking["agreement"].get(name)
        if found is None or found["tau"] is None:
            return (True, True, 0.0)
        return (False, found["n_models"] < len(self.models), -found["tau"])


def shortened(label: str, longest: int = LONGEST_LABEL) -> str:
    """A label on one line with at most ``longest`` characters, without its middle if need be.

    Examples:
        >>> shortened("vit_base_patch16_224.augreg_in21k", 20)
        'vit_base_p…reg_in21k'
    """
    line = " ".join(label.split())
    if len(line) <= longest:
        return line
    end = (longest - 1) // 2
    return f"{line[: longest - 1 - end]}…{line[len(line) - end :]}"


def rounded(value: float) -> str:
    """A correlation with two decimals, without the sign of a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def chart_labels(page: RankingPage) -> list[str]:
    """The name of each model in a figure; a shortened one has its place in the ranking before."""
    found = []
    for place, model in enumerate(page.models, start=1):
        short = shortened(model["label"])
        found.append(short if short == model["label"] else f"{place}. {short}")
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
