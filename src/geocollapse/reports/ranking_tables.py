"""The tables of the page of a ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geocollapse.experiments.results.tables import flatten
from geocollapse.measures import MEASURES
from geocollapse.ranking.table import counted
from geocollapse.reports.ranking_reading import (
    ACCURACY,
    PREDICTED,
    SHARES,
    Interval,
    RankingPage,
    rounded,
    shortened,
)
from geocollapse.reports.wording import MISSING, p_value

if TYPE_CHECKING:
    from geocollapse.ranking.json_form import RankedModelDict

_N_SCORES = 3  # in the first table
_LONGEST = 28  # letters of a label in a narrow cell
_LONGEST_ROW = 60  # and at the head of a row
_NO_BREAK = "\u00a0"  # no line breaks here
_MARGIN = 0.06  # of an interval bar, at both ends


@dataclass(frozen=True)
class Bar:
    """Where an interval lies on the common scale of its column, in per cent of the width."""

    left: float
    width: float
    dot: float


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a smaller line below, and the full name of what is shortened."""

    text: str
    note: str = ""
    title: str = ""
    bar: Bar | None = None
    is_tie: bool = False


@dataclass(frozen=True)
class Table:
    """Headings and rows; the first cell of a row is its heading."""

    headings: tuple[Cell, ...]
    rows: tuple[tuple[Cell, ...], ...]


def ranking_table(page: RankingPage) -> Table:
    """The models best first: what ranks them, the best scores, and what they cost."""
    first = page.ranking["ranked_by"]
    others = [name for name in (ACCURACY, PREDICTED) if name != first and _any(page, name)]
    scores = [name for name in page.score_names if name != first and _any(page, name)]
    shown = [*others, *scores[:_N_SCORES]]
    bars = _bars([page.interval(model, first) for model in page.models])
    gc = MEASURES["geometric_complexity"]
    headings = (
        Cell(page.what),
        Cell(page.named(first).full_name, "95 % interval"),
        *(Cell(page.named(n).short, "" if n in SHARES else page.named(n).direction) for n in shown),
        Cell(gc.short, gc.unit, title=gc.full_name),
        Cell("parameters"),
        Cell("time an example"),
        Cell("tied with" if page.ranking["classes"] else ""),
    )
    rows = []
    for place, (model, bar) in enumerate(zip(page.models, bars, strict=True), start=1):
        measured = Cell(*_texts(first, page.interval(model, first)), bar=bar)
        complexity = Interval.of(model["geometric_complexity"])
        rows.append(
            (
                _placed(place, model["label"], _LONGEST_ROW),
                measured,
                *(Cell(_texts(name, page.interval(model, name))[0]) for name in shown),
                Cell(_four(complexity), _range(complexity)),
                *_costs(model),
                _ties(page, model),
            )
        )
    return Table(headings, tuple(rows))


def tie_table(page: RankingPage) -> Table:
    """The difference of every two models: that of the row less that of the column."""
    labels = [model["label"] for model in page.models]
    headings = (
        Cell("row less column"),
        *(_placed(place, label) for place, label in enumerate(labels[1:], start=2)),
    )
    rows = tuple(
        (
            _placed(place, first),
            *(_pair(page, first, second, place < column) for column, second in columns),
        )
        for place, first in enumerate(labels[:-1], start=1)
        for columns in [list(enumerate(labels[1:], start=2))]
    )
    return Table(headings, rows)


def agreement_table(page: RankingPage) -> Table:
    """How well each score agreed with the measured order, and the model that it would pick."""
    found = page.ranking["agreement"]
    names = [name for name in (PREDICTED, *page.score_names) if name in found]
    headings = (
        Cell("score"),
        Cell("better"),
        Cell("Kendall's τ", "95 % interval"),
        Cell(f"{page.what}s"),
        Cell(f"{page.what} it would pick"),
        Cell("accuracy lost by that", "95 % interval, in points"),
    )
    rows = []
    for name in names:
        if not found[name]["n_models"]:
            continue
        rows.append(
            (
                Cell(*_names(page, name)),
                Cell(page.named(name).better or MISSING),
                _correlation(page.tau(name)),
                Cell(str(found[name]["n_models"])),
                *_picked(page, name),
            )
        )
    return Table(headings, tuple(rows))


def score_table(page: RankingPage) -> Table:
    """Every score of every model with its interval and its value under shuffled labels."""
    headings = (
        Cell("score"),
        *(_placed(place, m["label"]) for place, m in enumerate(page.models, start=1)),
    )
    rows = tuple(
        (
            Cell(page.named(name).full_name, page.named(name).direction),
            *(_score(page, model, name) for model in page.models),
        )
        for name in page.score_names
    )
    return Table(headings, rows)


def model_table(page: RankingPage) -> Table:
    """Where the features of each model come from."""
    headings = tuple(
        map(Cell, (page.what, "given as", "weights", "layer", "features", "taken from"))
    )
    rows = tuple(
        (
            Cell(f"{place}.{_NO_BREAK}{model['label']}"),
            Cell(model["model"] or MISSING),
            Cell(model["weights"] or MISSING),
            Cell(model["layer"] or "the output"),
            Cell(f"{model['n_features']:,}"),
            Cell("the cache" if model["from_cache"] else "the model"),
        )
        for place, model in enumerate(page.models, start=1)
    )
    return Table(headings, rows)


def preprocessing(page: RankingPage) -> tuple[list[tuple[str, str]], Table]:
    """What the preprocessing of all models shares, and a table of what differs."""
    texts = [dict(settings(model["preprocessing"])) for model in page.models]
    keys = list(dict.fromkeys(key for row in texts for key in row))
    same = [key for key in keys if len({row.get(key) for row in texts}) == 1]
    headings = (
        Cell("preprocessing"),
        *(_placed(place, m["label"]) for place, m in enumerate(page.models, start=1)),
    )
    rows = tuple(
        (Cell(key), *(Cell(row.get(key, MISSING)) for row in texts))
        for key in keys
        if key not in same
    )
    return [(key, texts[0][key]) for key in same], Table(headings, rows)


def model_warnings(page: RankingPage) -> list[tuple[str, str]]:
    """Each warning once, with the models that it is about."""
    about: dict[str, list[str]] = {}
    for model in page.models:
        for text in model["warnings"]:
            about.setdefault(text, []).append(model["label"])
    everyone = len(page.models)
    return [
        ("all models" if len(labels) == everyone > 1 else ", ".join(labels), text)
        for text, labels in about.items()
    ]


def columns(page: RankingPage) -> list[Mapping[str, object]]:
    """The rows of ranking.csv: one a model, best first, then those that failed."""
    rows: list[Mapping[str, object]] = [
        {"place": place, "error": None, **flatten(dict(model))}
        for place, model in enumerate(page.models, start=1)
    ]
    return [*rows, *(dict(failed) for failed in page.ranking["failed"])]


def _any(page: RankingPage, name: str) -> bool:
    return any(page.interval(model, name).is_known for model in page.models)


def _texts(name: str, found: Interval) -> tuple[str, str]:
    """A value and its interval, accuracies in per cent."""
    if name not in SHARES:
        return _four(found), _range(found)
    return (f"{found.value:.1f}%" if found.is_known else MISSING, _range(found, ".1f", "%"))


def _four(found: Interval) -> str:
    return f"{found.value:.4g}" if found.is_known else MISSING


def _range(found: Interval, spec: str = ".4g", unit: str = "") -> str:
    return f"{found.low:{spec}} to {found.high:{spec}}{unit}" if found.has_range else ""


def _bars(values: Sequence[Interval]) -> list[Bar | None]:
    """Intervals on one scale, from the lowest end to the highest with a margin."""
    ends = [end for v in values if v.is_known for end in (v.value, v.low, v.high) if end == end]
    if len(ends) < 2 or max(ends) == min(ends):
        return [None] * len(values)
    margin = _MARGIN * (max(ends) - min(ends))
    start = min(ends) - margin
    unit = 100.0 / (max(ends) + margin - start)
    return [
        Bar(
            left=unit * (v.low - start),
            width=unit * (v.high - v.low),
            dot=unit * (v.value - start),
        )
        if v.is_known and v.has_range
        else None
        for v in values
    ]


def _correlation(tau: Interval) -> Cell:
    bounds = f"{rounded(tau.low)} to {rounded(tau.high)}" if tau.has_range else ""
    return Cell(rounded(tau.value) if tau.is_known else MISSING, bounds)


def _costs(model: RankedModelDict) -> tuple[Cell, Cell]:
    """Parameters, and the time of a forward pass."""
    n_parameters = model["n_parameters"]
    seconds = model["seconds_per_example"]
    return (
        Cell(MISSING if n_parameters is None else counted(n_parameters)),
        Cell(MISSING if seconds is None else f"{1e3 * seconds:.3g} ms"),
    )


def _ties(page: RankingPage, model: RankedModelDict) -> Cell:
    """The models that cannot be told apart from this one; without labels none were compared."""
    if not page.ranking["classes"]:
        return Cell("a guess without labels")
    tied = model["tied_with"]
    names = ", ".join(shortened(label, _LONGEST) for label in tied)
    if len(page.models) < 2:
        return Cell(MISSING)
    if len(tied) == len(page.models) - 1 > 2:
        return Cell("all others", title=", ".join(tied))
    return Cell(names or "none", title=", ".join(tied))


def _placed(place: int, label: str, longest: int = _LONGEST) -> Cell:
    """A label with its place in the ranking, and in full on hover where it is shortened."""
    short = shortened(label, longest)
    return Cell(f"{place}.{_NO_BREAK}{short}", title="" if short == label else label)


def _pair(page: RankingPage, first: str, second: str, is_above: bool) -> Cell:
    """One difference; empty below the diagonal, where it stands already."""
    found = page.difference(first, second) if is_above else None
    if found is None:
        return Cell("")
    difference, pair = found
    spec = "+.1f" if page.ranking["ranked_by"] in SHARES else "+.3g"
    text = f"{difference.value:{spec}}" if difference.is_known else MISSING
    p = pair["p_holm"]
    lines = [_range(difference, spec), f"p{_NO_BREAK}{_p(p)}"]
    return Cell(
        f"{text}, tied" if pair["tied"] else text,
        "\n".join(line for line in lines if line),
        is_tie=pair["tied"],
    )


def _p(value: float | None) -> str:
    if value is None:
        return MISSING
    text = p_value(value)
    return text.replace(" ", _NO_BREAK) if text.startswith("<") else f"={_NO_BREAK}{text}"


def _picked(page: RankingPage, name: str) -> tuple[Cell, Cell]:
    """The model that a score would pick, and the accuracy lost against the best."""
    picked = page.picked_by(name)
    if picked is None:
        return Cell(MISSING), Cell(MISSING)
    model = Cell(shortened(picked["label"], _LONGEST), title=picked["label"])
    best = page.models[0]["label"]
    if picked["label"] == best:
        return model, Cell("nothing: it is the best")
    found = page.difference(best, picked["label"])
    if found is None or not found[0].is_known:
        return model, Cell(MISSING)
    lost, pair = found
    text = f"{lost.value:.1f}"
    return model, Cell(f"{text}, tied with the best" if pair["tied"] else text, _range(lost, ".1f"))


def _score(page: RankingPage, model: RankedModelDict, name: str) -> Cell:
    """A value with its interval and its value by chance, or the reason why there is none."""
    score = model["scores"].get(name)
    found = page.interval(model, name)
    if score is None or not found.is_known:
        return Cell(MISSING, score["reason"] if score else "")
    null = score["null"]
    chance = None if null is None else null["mean"]
    notes = [_range(found), "" if chance is None else f"by chance {chance:.4g}"]
    return Cell(_four(found), "\n".join(note for note in notes if note))


def _plain(value: object) -> str:
    """A setting as text."""
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _names(page: RankingPage, name: str) -> tuple[str, str]:
    """The full name of a score, and its short one where that is another."""
    named = page.named(name)
    return named.full_name, "" if named.short == named.full_name else named.short


def settings(found: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Settings with dotted names as text, a list on one line, without those that are not known."""
    flat: list[tuple[str, str]] = []
    for key, value in found.items():
        if isinstance(value, Mapping):
            flat += settings(value, f"{prefix}{key}.")
        elif value is not None:
            flat.append((f"{prefix}{key}".replace("_", " "), _plain(value)))
    return flat
