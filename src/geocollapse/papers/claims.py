"""The records by which a paper's folder says what is judged and shown: claims, figures, papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from geocollapse.experiments.results.tables import SweepResults
    from geocollapse.papers.verdict import Verdict

Judgement = Literal["correlation", "trend", "threshold", "methods"]
FigureKind = Literal["settings", "points", "records", "training", "effects", "paths"]


class Judge(Protocol):
    """Every verdict of a paper on a sweep."""

    def __call__(self, results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]: ...


@dataclass(frozen=True)
class Claim:
    """One claim of a paper, with what a report shows beside its verdicts.

    Attributes:
        name: unique among all papers, in kebab case; `Verdict.claim` refers to it.
        statement: the claim, in a sentence.
        judged_by: `correlation`: the rank correlation of two columns, with p; `trend`: the order of
            a measure over settings within each seed, with p; `threshold`: a quantity over all runs;
            `methods`: one threshold for each of several methods.
        effect: the numbers beside its verdicts, in words.
        figures: charts that show it, by the start of their names.
        cautions: what can mislead a reader.
        pairs: words for the pair of a verdict, by the verdict's ``x``, where they are no columns.
    """

    name: str
    statement: str
    judged_by: Judgement
    effect: str
    figures: tuple[str, ...]
    cautions: tuple[str, ...]
    pairs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PanelColumns:
    """One panel of a figure, by columns of the sweep's tables; it is left out where one is missing.

    In figures of `records` and of `training`, `*` stands for one part of a column's name, such as a
    number of steps.

    Attributes:
        y: the column that is shown.
        x: the other column of a figure of `points` or `records`; other kinds have their own x axis.
        level: height of a grey reference line.
        level_name: its name.
        is_equality: a grey line shows where y equals x.
        is_apart: `records` have a panel for each match of `*` and a series for each setting, not
            one panel with a series for each match.
    """

    y: str
    x: str = ""
    level: float | None = None
    level_name: str = ""
    is_equality: bool = False
    is_apart: bool = False
    is_matched: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure of a paper as data: reports draw one for each sweep, or one for the whole folder.

    Attributes:
        name: in kebab case, the start of the chart's name; `Claim.figures` refers to it.
        title: what it shows; the name of the sweep is put behind it.
        caption: how to read it; how points and bands are drawn is put behind it.
        kind: `settings`: y over each swept value in its order; `points`: y against x, a point a
            run; `records`: y against x, a point a record; `training`: y over the steps, a line a
            setting; `effects`: y relative to the weakest setting of each sweep, a line a sweep,
            over the whole folder; `paths`: y of the strongest relative to the weakest setting of
            each sweep, over equal training losses.
        panels: in order.
        over_folder: `points` of all runs in one figure, a mark for each sweep.
    """

    name: str
    title: str
    caption: str
    kind: FigureKind
    panels: tuple[PanelColumns, ...]
    over_folder: bool = False


@dataclass(frozen=True)
class Paper:
    """A paper whose claims can be judged.

    Attributes:
        name: in kebab case; recipes refer to it under `claims.papers`.
        citation: authors and year, as a sentence has them.
        claims: in published order.
        judge: the verdicts on them.
        figures: those that reports draw from their description here.
        rules: how verdicts are decided, in sentences, for the page.
        kind: of the experiments that it judges.
    """

    name: str
    citation: str
    claims: tuple[Claim, ...]
    judge: Judge
    figures: tuple[Figure, ...] = ()
    rules: str = ""
    kind: Literal["supervised", "game"] = "supervised"


@dataclass(frozen=True)
class BenchmarkPaper:
    """A paper whose claims are judged on a stored benchmark, not on sweeps.

    Attributes:
        name: in kebab case.
        citation: authors and year, as a sentence has them.
        claims: in published order.
        judge: the verdicts on them, from the file of the benchmark.
        rules: how verdicts are decided, in sentences, for the page.
    """

    name: str
    citation: str
    claims: tuple[Claim, ...]
    judge: Callable[[Path], tuple[Verdict, ...]]
    rules: str
