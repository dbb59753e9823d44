"""A ranking as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from geocollapse.estimate import Estimate
from geocollapse.measures import SCORES
from geocollapse.ranking.guess import GUESS
from geocollapse.ranking.result import RankedModel, Ranking
from geocollapse.ranking.ties import tied_with

if TYPE_CHECKING:
    from rich.table import Table

_BEST_SCORES = 3
_LEAST_FOR_AGREEMENT = 4  # models: three agree by luck in one case of six
_WIDTH = 240  # a table is as wide as its columns need, up to here
_NOTE_WIDTH = 100


def as_text(ranking: Ranking) -> str:
    """Advice, table, agreement of the scores, notes."""
    from rich.console import Console

    lines = []
    below = [
        *_agreement(ranking),
        *(f"failed: {failed.label}: {failed.error}" for failed in ranking.failed),
        *(f"note: {warning}" for warning in ranking.warnings),
    ]
    for width, part in (
        (_NOTE_WIDTH, ranking.advice),
        (_WIDTH, ""),
        (_WIDTH, _guess_table(ranking) if ranking.is_guess else _table(ranking)),
        *((_NOTE_WIDTH, text) for text in below),
    ):
        console = Console(width=width, color_system=None, highlight=False, markup=False)
        with console.capture() as capture:
            console.print(part)
        lines += [line.rstrip() for line in capture.get().rstrip("\n").splitlines() or [""]]
    return "\n".join(lines)


def _table(ranking: Ranking) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    target = ranking.about
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("model")
    table.add_column(f"{target.k_shot}-shot accuracy\n95 % for examples like these")
    for heading in ("predicted", "geometric complexity\n95 % interval", "parameters", "time"):
        table.add_column(heading, justify="right")
    table.add_column("tied with")
    for model in ranking.models:
        table.add_row(*map(Text, _cells(model, ranking)))
    for failed in ranking.failed:
        table.add_row(Text(failed.label), "failed", *[""] * 5)
    return table


def _guess_table(ranking: Ranking) -> Table:
    """The scores that need no labels, and on each line that they are a guess."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    names = [n for n in SCORES if any(n in m.scores and m.scores[n].valid for m in ranking.models)]
    names.sort(key=lambda name: name != ranking.ranked_by)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("model")
    for name in names:
        table.add_column(f"{SCORES[name].short}\n95 % interval", justify="right")
    for heading in ("parameters", "time"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for model in ranking.models:
        found = (_interval(model.scores[n].estimate) if n in model.scores else "-" for n in names)
        table.add_row(*map(Text, (model.label, *found, *_costs(model), GUESS)))
    for failed in ranking.failed:
        table.add_row(Text(failed.label), *[""] * (len(names) + 2), "failed")
    return table


def _cells(model: RankedModel, ranking: Ranking) -> tuple[str, ...]:
    return (
        model.label,
        percent(model.accuracy),
        percent(model.predicted_accuracy, with_interval=False),
        _interval(model.geometric_complexity),
        *_costs(model),
        ", ".join(tied_with(model.label, ranking.pairs)) or "-",
    )


def _costs(model: RankedModel) -> tuple[str, str]:
    """Parameters, and the time of a forward pass of an example."""
    seconds = model.seconds_per_example
    return (
        "-" if model.n_parameters is None else counted(model.n_parameters),
        "-" if seconds is None else f"{1e3 * seconds:.3g} ms",
    )


def percent(estimate: Estimate | None, *, with_interval: bool = True) -> str:
    """A share as per cent, with its interval where it has one."""
    if estimate is None or math.isnan(estimate.value):
        return "-"
    low, high = estimate.interval()
    if not with_interval or math.isnan(low):
        return f"{estimate.value:.1%}"
    return f"{estimate.value:.1%} ({low:.1%} to {high:.1%})"


def _interval(estimate: Estimate | None) -> str:
    if estimate is None or math.isnan(estimate.value):
        return "-"
    low, high = estimate.interval()
    if math.isnan(low):
        return f"{estimate.value:.4g}"
    return f"{estimate.value:.4g} ({low:.4g} to {high:.4g})"


def counted(number: int) -> str:
    """1.2M, 45.3k."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)


def _agreement(ranking: Ranking) -> Sequence[str]:
    """The scores that agreed best with the measured order."""
    known = {
        name: found
        for name, found in ranking.agreement.items()
        if not math.isnan(found.tau) and found.n_models == len(ranking.models)
    }
    if not known or len(ranking.models) < _LEAST_FOR_AGREEMENT:
        return []
    best = sorted(known, key=lambda name: -known[name].tau)[:_BEST_SCORES]
    parts = [
        f"{SCORES[name].short} {known[name].tau:.2f} ({low:.2f} to {high:.2f})"
        for name in best
        for low, high in [known[name].interval]
    ]
    return ["", f"scores closest to this order (Kendall's tau, 95 %): {', '.join(parts)}"]
