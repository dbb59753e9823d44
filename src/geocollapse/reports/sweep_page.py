"""The report of a sweep folder: a self-contained page, figures for paper, the table of runs, the
verdicts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocollapse.charts.chart import Chart
from geocollapse.charts.labels import setting_label, short_name
from geocollapse.charts.page import plotly_panels
from geocollapse.charts.paper import save
from geocollapse.experiments.results.tables import (
    ACCURACY,
    GC,
    GC_PER_VARIANCE,
    GCOL,
    NC,
    TARGET_NC,
    SweepResults,
    flatten,
    read_sweep,
    write_table,
)
from geocollapse.papers.collapse_transfer.judge import judge
from geocollapse.papers.verdict import CLAIMS, Verdict, count
from geocollapse.reports.sweep_charts import charts
from geocollapse.runtime.files import write_whole

if TYPE_CHECKING:
    import jinja2
    from rich.table import Table

MISSING = "—"
SYMBOLS = {"holds": "✓", "does not hold": "✗", "undecided": "?"}

# Which figures stand behind a claim, by the start of their names.
FIGURES: dict[int, tuple[str, ...]] = {
    1: ("gc-and-collapse",),
    2: ("settings",),
    3: ("transfer",),
    4: ("poincare-ratio", "bound"),
    5: ("sampling",),
}

# What can mislead a reader, beside the claim that it can mislead about (definitions 9).
CAUTIONS = {
    1: (
        "GC depends on input and feature scale: compare it at one preprocessing, width and "
        "normalisation only.",
        "GC is the numerator of GCol, so part of their correlation is arithmetic; the note gives "
        "the null.",
        "NC with few samples a class is too small; the corrected value is slightly too large.",
        "NC ≤ c GCol is true by construction with c from the same features.",
    ),
    2: (
        "The swept setting moves training loss, feature norm and GC together: read the repetitions "
        "at matched loss and "
        "per feature variance beside the main verdict.",
        "A slow rate or a large batch leaves a run less trained; runs that did not converge are "
        "left out.",
        "Few settings decide only clear orders: five in perfect order have p = 1/120.",
    ),
    3: (
        "Source NC can have the opposite sign to target NC: both are shown.",
        "Many episodes make the accuracy's interval narrow, not the conclusion general: other "
        "classes and seeds may "
        "differ.",
    ),
    4: (
        "A bound above the error is no evidence for anything but the code; a vacuous one says "
        "nothing about the error.",
        "The empirical ratio is only a lower bound on a Poincaré constant; none is known for real "
        "data.",
    ),
    5: (
        "A few inputs can carry the mean of GC: with heavy tails and 200 examples a 95 % interval "
        "covers 92 % or less.",
        "With one probe an error bar is conservative; with one probe for a whole batch it is "
        "meaningless.",
    ),
}

RUN_COLUMNS = (
    "train_loss",
    "train_accuracy",
    GC,
    "source.gc_pixel",
    GC_PER_VARIANCE,
    GCOL,
    NC,
    "source.cdnv_bias_corrected",
    TARGET_NC,
    "target.accuracy.nearest_mean.1.value",
    ACCURACY,
)


def write_report(folder: str | Path, *, seed: int = 0) -> Path:
    """Write report.html, figures/*.png and *.pdf and table.csv into a sweep folder, from what lies
    there alone.

    Cost: about half a second a figure, four times the number of sweeps and a few more.

    Args:
        folder: a sweep folder, with or without weights.
        seed: of the bootstrap and of sampled permutations.

    Returns:
        The path of report.html: one file with all it needs, to be opened without a network.

    Raises:
        FileNotFoundError: ``folder`` is not a sweep folder.
    """
    results = read_sweep(folder)
    verdicts = judge(results, seed=seed)
    drawn = charts(results)
    write_table(results)
    for chart in drawn:
        save(chart, results.folder / "figures")
    path = results.folder / "report.html"
    write_whole({path: render(results, verdicts, drawn).encode("utf-8")})
    return path


def verdict_table(folder: str | Path, *, seed: int = 0) -> Table:
    """The main verdicts as a table for the terminal: a row for each pair, a column for each sweep."""
    from rich.table import Table

    verdicts = judge(read_sweep(folder), seed=seed)
    grid = VerdictGrid.of(verdicts)
    styles = {"holds": "green", "does not hold": "red", "undecided": "dim"}
    caption = f"{count_sentence(verdicts)} Numbers: Spearman's rho; Poincaré ratio, largest / smallest; coverage."
    table = Table(
        title="Verdicts on the claims of Munn, Dherin and Gonzalvo (2024)", caption=caption
    )
    for heading in ("claim", "pair", *(name.replace("_", " ") for name in grid.columns)):
        table.add_column(heading)
    for claim, pair, cells in grid.rows:
        shown = [f"[{styles[v.verdict]}]{v.verdict}[/]{_beside(v)}" if v else "" for v in cells]
        table.add_row(str(claim), pair, *shown)
    return table


def _beside(verdict: Verdict) -> str:
    """What stands beside a verdict: its remark, or how large the effect is."""
    return f"; {verdict.remark}" if verdict.remark else f" {effect_size(verdict)}"


def count_sentence(verdicts: Iterable[Verdict]) -> str:
    """How many verdicts were passed in all, and how they came out."""
    passed = list(verdicts)
    main, rest = [v for v in passed if v.view == "main"], [v for v in passed if v.view != "main"]
    counted = ", ".join(f"{n} {_plural(outcome, n)}" for outcome, n in count(main).items())
    return f"{len(passed)} verdicts were passed in all: {len(main)} main ones ({counted}) and {len(rest)} repetitions."


def effect_text(verdict: Verdict) -> str:
    """The effect size with its name, e.g. ``rho = +0.90``; nothing where it is undefined."""
    name = "rho =" if verdict.effect_name == "Spearman's rho" else verdict.effect_name
    size = effect_size(verdict)
    return f"{name} {size}" if size else ""


def effect_size(verdict: Verdict) -> str:
    """The number of the effect alone."""
    if math.isnan(verdict.effect):
        return ""
    shape = {"Spearman's rho": "+.2f", "coverage": ".1%"}.get(verdict.effect_name, ".3g")
    return f"{verdict.effect:{shape}}"


def number(value: Any) -> str:
    """Three significant digits; a dash for what is missing; words as they are."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.3g}"
    return f"{int(value)}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class VerdictGrid:
    """The main verdicts by pair and sweep."""

    columns: tuple[str, ...]
    rows: tuple[tuple[int, str, tuple[Verdict | None, ...]], ...]

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> VerdictGrid:
        main = [verdict for verdict in verdicts if verdict.view == "main"]
        columns = tuple(dict.fromkeys(verdict.sweep for verdict in main))
        cells = {(verdict.claim, pair_name(verdict), verdict.sweep): verdict for verdict in main}
        rows = dict.fromkeys((claim, pair) for claim, pair, _ in cells)
        return cls(
            columns,
            tuple((c, p, tuple(cells.get((c, p, name)) for name in columns)) for c, p in rows),
        )


def pair_name(verdict: Verdict) -> str:
    """The two quantities in short, e.g. ``GC, GCol``."""
    if verdict.claim == 4:
        return "Poincaré ratio over runs" if verdict.x == "run" else "bound, error"
    x = "swept value" if verdict.x.startswith("swept.") else short_name(verdict.x)
    return f"{verdict.x if verdict.claim == 5 else x}, {short_name(verdict.y)}"


def render(results: SweepResults, verdicts: tuple[Verdict, ...], drawn: list[Chart]) -> str:
    """The page as text."""
    from plotly.offline import get_plotlyjs

    environment = _environment()
    headings, rows = _run_table(results)
    panels = {chart.name: plotly_panels(chart) for chart in drawn}
    return environment.get_template("report.html.jinja").render(
        recipe=results.recipe,
        n_seeds=results.runs["seed"].nunique(),
        counted=count_sentence(verdicts),
        missing=MISSING,
        runs_sentence=_runs_sentence(results),
        grid=VerdictGrid.of(verdicts),
        claims=[_claim_view(number_, verdicts, drawn) for number_ in CLAIMS],
        histories=[chart for chart in drawn if chart.name.startswith(("curves", "training"))],
        runs=rows,
        run_headings=headings,
        failed=results.runs[results.runs["status"] == "failed"].to_dict("records"),
        problems=results.problems,
        warnings=_warnings(results),
        provenance=_provenance(results),
        recipe_text=_recipe_text(results.recipe),
        plotly_js=get_plotlyjs(),
        panels_json=json.dumps(panels, allow_nan=False).replace("</", "<\\/"),
    )


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("geocollapse.reports", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"number": number, "effect": effect_text, "size": effect_size}
    environment.filters |= {
        "interval": _interval,
        "p": _p,
        "words": lambda name: name.replace("_", " "),
    }
    environment.globals |= {"symbols": SYMBOLS}
    return environment


def _claim_view(claim: int, verdicts: tuple[Verdict, ...], drawn: list[Chart]) -> dict[str, Any]:
    """One claim as the page shows it: its main verdicts, each with its repetitions, its figures,
    its cautions.
    """
    own = [verdict for verdict in verdicts if verdict.claim == claim]
    main = [verdict for verdict in own if verdict.view == "main"]
    views = list(dict.fromkeys(verdict.view for verdict in own if verdict.view != "main"))
    again = {(_same(verdict), verdict.view): verdict for verdict in own}
    return {
        "number": claim,
        "text": CLAIMS[claim],
        "views": views,
        "rows": [
            (verdict, [again.get((_same(verdict), view)) for view in views]) for verdict in main
        ],
        "charts": [chart for chart in drawn if chart.name.startswith(FIGURES[claim])],
        "cautions": CAUTIONS[claim],
    }


def _same(verdict: Verdict) -> tuple[str, ...]:
    """What a verdict shares with its repetitions."""
    return (verdict.sweep, *(name.replace(GC_PER_VARIANCE, GC) for name in (verdict.x, verdict.y)))


def _run_table(results: SweepResults) -> tuple[list[str], list[list[Any]]]:
    """Headings and one row for each run: what it is, what became of it, its last measurements."""
    shown = [
        name for name in RUN_COLUMNS if name in results.runs and results.runs[name].notna().any()
    ]
    named = results.settings.groupby("run_id", sort=False)["setting"].agg(
        lambda s: "; ".join(map(setting_label, s))
    )
    rows = []
    for _, run in results.runs.iterrows():
        status = (
            "not converged" if run["status"] == "done" and not run["converged"] else run["status"]
        )
        what = [
            run["run_id"][:10],
            status,
            named.get(run["run_id"], "base"),
            run["seed"],
            run.get("step"),
        ]
        rows.append([*what, *(run[name] for name in shown)])
    return ["run", "status", "setting", "seed", "step", *(short_name(name) for name in shown)], rows


def _runs_sentence(results: SweepResults) -> str:
    runs = results.runs
    done = runs[runs["status"] == "done"]
    parts = [f"{len(runs)} runs: {int(done['converged'].sum())} converged"]
    kinds = {"not converged": len(done) - int(done["converged"].sum())}
    kinds |= {status: int((runs["status"] == status).sum()) for status in ("failed", "unfinished")}
    return ", ".join([*parts, *(f"{n} {kind}" for kind, n in kinds.items() if n)]) + "."


def _provenance(results: SweepResults) -> list[tuple[str, str]]:
    """Versions, device, seeds and threads as the runs recorded them; values that differ between
    runs are all listed.
    """
    said = _distinct(flatten(run) for run in results.provenance.values())
    said |= {"seed": [str(seed) for seed in sorted(results.runs["seed"].dropna().unique())]}
    rows = [
        ("command", _command(results)),
        ("this report", f"geocollapse report {results.folder.name}"),
    ]
    return rows + [
        (key, _few(values)) for key, values in (said | _preprocessing(results)).items() if values
    ]


def _command(results: SweepResults) -> str:
    """What makes this sweep anew: a shipped recipe with its preset where that is all, else the
    recipe on the page.
    """
    from geocollapse.experiments.recipe import load_recipe, recipe_names

    ran = {key: value for key, value in results.recipe.items() if key != "runs"}
    n_seeds = results.runs["seed"].nunique()
    seeds = "" if n_seeds == ran.get("seeds") else f" --seeds {n_seeds}"
    if ran.get("name") in recipe_names():
        shipped = load_recipe(ran["name"])
        if shipped.to_dict() == ran:
            return f"geocollapse sweep {ran['name']}{seeds}"
        for preset in shipped.presets:
            if shipped.with_preset(preset).to_dict() == ran:
                return f"geocollapse sweep {ran['name']} --preset {preset}{seeds}"
    return f"geocollapse sweep recipe.yaml{seeds}  # recipe.yaml: the expanded recipe below"


def _preprocessing(results: SweepResults) -> dict[str, list[str]]:
    """The preprocessing in force: GC is compared only where it is one and the same."""
    prefix = "source.preprocessing."
    runs = results.runs[[name for name in results.runs.columns if name.startswith(prefix)]]
    rows = [row.dropna().map(number).to_dict() for _, row in runs.iterrows()]
    said = _distinct(
        {str(name).removeprefix(prefix): value for name, value in row.items()} for row in rows
    )
    return {f"preprocessing, {name}": values for name, values in said.items()}


def _distinct(mappings: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Each key with its different values, as text, in the order of their coming."""
    seen: dict[str, list[str]] = {}
    for mapping in mappings:
        for key, value in mapping.items():
            if value is not None and str(value) not in seen.setdefault(key, []):
                seen[key].append(str(value))
    return seen


def _few(values: list[str]) -> str:
    more = f" and {len(values) - 4} more" if len(values) > 4 else ""
    return ", ".join(values[:4]) + more


def _warnings(results: SweepResults) -> list[tuple[str, int]]:
    """What the last measurements warned of, with the number of runs that did."""
    counts: dict[str, int] = {}
    for column in ("source.warnings", "target.warnings"):
        for text in results.runs[column].dropna() if column in results.runs else ():
            for warning in json.loads(text):
                counts[warning] = counts.get(warning, 0) + 1
    return sorted(counts.items(), key=lambda item: -item[1])


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    import yaml

    shown = {key: value for key, value in recipe.items() if key != "runs"}
    return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))


def _interval(bounds: tuple[float, float]) -> str:
    return (
        MISSING
        if any(math.isnan(bound) for bound in bounds)
        else f"[{bounds[0]:.2f}, {bounds[1]:.2f}]"
    )


def _p(value: float) -> str:
    return MISSING if math.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _plural(outcome: str, n: int) -> str:
    return (
        outcome
        if n == 1
        else {"holds": "hold", "does not hold": "do not hold"}.get(outcome, outcome)
    )
