"""A ranking as a table for the terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from geocollapse.estimate import Estimate
from geocollapse.measures import SCORES
from geocollapse.ranking.guess import GUESS
from geocollapse.ranking.predicted import PREDICTED
from geocollapse.ranking.result import RankedModel, Ranking
from geocollapse.ranking.ties import tied_with

if TYPE_CHECKING:
    from rich.table import Table

SHOWN_SCORES = ("logme", "directional_cdnv", "h_score", "loo_knn_accuracy")
"""Score columns by preference, where too few models are ranked to say which agreed best.

Fixed before any ranking was looked at: the score most often used, and the one of the theory.
"""

_N_COLUMNS = 2  # of scores
_BEST_SCORES = 3
_LEAST_FOR_AGREEMENT = 4  # models: three agree by luck in one case of six
_WIDTH = 100
_LEAST_LABEL = 14  # columns of a model's name, however wide the others are
_HEADING = 12  # characters in a line of a heading
_BETWEEN = 2  # spaces between columns


class _Column(NamedTuple):
    """One column: its heading and a cell of each model, which may have several lines."""

    heading: str
    cells: Sequence[str]
    is_right: bool = True

    @property
    def width(self) -> int:
        """Characters of the longest line."""
        texts = (self.heading, *self.cells)
        return max((len(line) for text in texts for line in text.splitlines()), default=0)


def as_text(ranking: Ranking) -> str:
    """Advice, table, agreement of the scores, notes."""
    from rich.console import Console

    below = [
        *_agreement(ranking),
        *(f"failed: {failed.label}: {failed.error}" for failed in ranking.failed),
        *(f"note: {warning}" for warning in ranking.warnings),
    ]
    columns = _of_a_guess(ranking) if ranking.is_guess else _of_a_ranking(ranking)
    lines = []
    for part in (ranking.advice, "", _table(columns, ranking), *below):
        width = _WIDTH if isinstance(part, str) else _width(columns)
        console = Console(width=width, color_system=None, highlight=False, markup=False)
        with console.capture() as capture:
            console.print(part)
        lines += [line.rstrip() for line in capture.get().rstrip("\n").splitlines() or [""]]
    return "\n".join(lines)


def _width(columns: Sequence[_Column]) -> int:
    """Of the table: 100 columns, or more where the numbers alone need more."""
    others = sum(column.width + _BETWEEN for column in columns)
    return max(_WIDTH, others + _LEAST_LABEL)


def _table(columns: Sequence[_Column], ranking: Ranking) -> Table:
    """The models with what they are tied with, the columns, and the models that failed.

    Names are folded where the others leave too little room; numbers are never cut off.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _BETWEEN - 1, 0, 0)
    )
    table.add_column("model", overflow="fold")
    for column in columns:
        table.add_column(
            Text(column.heading), justify="right" if column.is_right else "left", no_wrap=True
        )
    for place, model in enumerate(ranking.models):
        cells = (column.cells[place] for column in columns)
        table.add_row(*map(Text, (_name(model, ranking), *cells)))
    for failed in ranking.failed:
        table.add_row(Text(failed.label), Text("failed"), *[""] * (len(columns) - 1))
    return table


def _name(model: RankedModel, ranking: Ranking) -> str:
    """The label, and below it the models that it is tied with."""
    tied = tied_with(model.label, ranking.pairs)
    return f"{model.label}\ntied with {', '.join(tied)}" if tied else model.label


def _of_a_ranking(ranking: Ranking) -> list[_Column]:
    """Accuracy, predicted accuracy, two scores, geometric complexity and costs."""
    models = ranking.models
    shots = ranking.about.k_shot
    return [
        _Column(f"{shots}-shot\naccuracy\n95 %", [_share(m.accuracy) for m in models]),
        _Column("predicted\naccuracy\n95 %", [_share(m.predicted_accuracy) for m in models]),
        *(_score(name, models, has_range=False) for name in shown_scores(ranking)),
        _Column("geometric\ncomplexity\n95 %", [_number(m.geometric_complexity) for m in models]),
        _costs(models),
    ]


def _of_a_guess(ranking: Ranking) -> list[_Column]:
    """The scores that need no labels, that of the order first, costs, and that it is a guess."""
    models = ranking.models
    names = [n for n in SCORES if any(n in m.scores and m.scores[n].valid for m in models)]
    names.sort(key=lambda name: name != ranking.ranked_by)
    scores = [_score(name, models, has_range=True) for name in names]
    return [*scores, _costs(models), _Column("", [GUESS] * len(models), is_right=False)]


def shown_scores(ranking: Ranking) -> list[str]:
    """The scores of the table: of four models and more those that agreed best, else fixed ones.

    The predicted accuracy has a column of its own.
    """
    best = [name for name in _by_agreement(ranking) if name != PREDICTED]
    names = best or SHOWN_SCORES
    scores = [model.scores for model in ranking.models]
    found = [n for n in names if any(n in known and known[n].valid for known in scores)]
    return found[:_N_COLUMNS]


def _score(name: str, models: Sequence[RankedModel], *, has_range: bool) -> _Column:
    heading = textwrap.fill(SCORES[name].short, _HEADING)
    found = [model.scores.get(name) for model in models]
    cells = [_number(None if score is None else score.estimate) for score in found]
    if has_range:
        return _Column(f"{heading}\n95 %", cells)
    return _Column(heading, [cell.partition("\n")[0] for cell in cells])


def _costs(models: Sequence[RankedModel]) -> _Column:
    """Parameters, and below them the time of a forward pass of an example."""
    cells = []
    for model in models:
        seconds = model.seconds_per_example
        size = "-" if model.n_parameters is None else counted(model.n_parameters)
        cells.append(f"{size}\n{'-' if seconds is None else f'{1e3 * seconds:.3g} ms'}")
    return _Column("parameters\ntime", cells)


def _share(estimate: Estimate | None) -> str:
    """A share as per cent, and its interval below it."""
    if estimate is None or math.isnan(estimate.value):
        return "-"
    low, high = estimate.interval()
    range_of = "" if math.isnan(low) else f"{100 * low:.1f} to {100 * high:.1f}"
    return f"{estimate.value:.1%}\n{range_of}"


def _number(estimate: Estimate | None) -> str:
    """A value, and its interval below it."""
    if estimate is None or math.isnan(estimate.value):
        return "-"
    low, high = (_three_digits(end) for end in estimate.interval())
    return f"{_three_digits(estimate.value)}\n{'' if low == 'nan' else f'{low} to {high}'}"


def _three_digits(value: float) -> str:
    """Three significant digits, without an exponent up to a million: 51,700."""
    if 1e3 <= abs(value) < 1e6:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"


def counted(number: int) -> str:
    """1.2M, 45.3k."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _by_agreement(ranking: Ranking) -> list[str]:
    """The scores that all models have by falling agreement; none of fewer than four models."""
    known = {
        name: found.tau
        for name, found in ranking.agreement.items()
        if not math.isnan(found.tau) and found.n_models == len(ranking.models)
    }
    if len(ranking.models) < _LEAST_FOR_AGREEMENT:
        return []
    return sorted(known, key=lambda name: -known[name])


def _agreement(ranking: Ranking) -> Sequence[str]:
    """The scores that agreed best with the measured order, in a line below a blank one."""
    parts = []
    for name in _by_agreement(ranking)[:_BEST_SCORES]:
        found = ranking.agreement[name]
        low, high = found.interval
        parts.append(f"{SCORES[name].short} {found.tau:.2f} ({low:.2f} to {high:.2f})")
    if not parts:
        return []
    return ["", f"scores closest to this order (Kendall's tau, 95 %): {', '.join(parts)}"]
