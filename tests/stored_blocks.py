"""What a page says of a stored sweep: a block between two comments, made from `results/`.

<!-- stored: RECIPE CHART ... -->
...
<!-- end of RECIPE -->
"""

import re
from pathlib import Path

from geocollapse.charts.paper import png
from geocollapse.reports.sweep_report import read_report
from geocollapse.reports.times import pause_note
from geocollapse.reports.wording import effect_text, interval, p_value, words

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures" / "stored"
BLOCK = re.compile(r"<!-- stored: (\S+)([^>]*)-->\n(.*?)<!-- end of \1 -->", re.DOTALL)


def report_of(recipe):
    return read_report(ROOT / "results" / recipe / "reduced")


def block(recipe, report, names):
    """The lines of a block: what it cost, the verdicts, and the figures."""
    charts = {chart.name: chart for chart in report.charts}
    images = [f"![{charts[name].title}](figures/stored/{recipe}-{name}.png)" for name in names]
    lines = [
        cost(report),
        "",
        *verdict_table(report.verdicts),
        "",
        *(f"{image}\n" for image in images),
    ]
    return "\n".join(lines)


def cost(report):
    runs = report.results.runs
    recipe = report.results.recipe
    n_converged = int(runs["converged"].astype(bool).sum())
    has_goal = recipe.get("kind") != "game" and recipe["training"]["extra_factor"] < 100
    converged = f", {n_converged} of them converged," if has_goal else ""
    seconds = float(runs["seconds"].astype(float).sum())
    time = f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{seconds:.0f} s"
    origins = report.results.provenance.values()
    machines = "; ".join(dict.fromkeys(origin["machine"] for origin in origins))
    said = f"{len(runs)} runs{converged} in {time} of one thread on {machines}, beside other work:"
    note = pause_note(report.results)
    return f"{said}\n\n{note}" if note else said


def verdict_table(verdicts):
    """The main verdicts with data, in the order of the claims."""
    yield "| claim | judged | verdict | effect | 95 % interval | p |"
    yield "|---|---|---|---|---|---|"
    for verdict in verdicts:
        if verdict.view == "main" and verdict.n_runs:
            sweep = "" if verdict.sweep == "all runs" else f" ({words(verdict.sweep)})"
            remark = f"; {verdict.remark}" if verdict.remark else ""
            cells = (
                f"`{verdict.claim}`",
                f"{verdict.statement}{sweep}",
                f"**{verdict.verdict}**{remark}",
                effect_text(verdict),
                interval(verdict.interval),
                p_value(verdict.p_holm),
            )
            yield f"| {' | '.join(cells)} |"


def rewritten(page):
    """The text of a page with its blocks made anew; their figures are written beside it."""

    def made(found):
        recipe, names = found[1], found[2].split()
        report = report_of(recipe)
        FIGURES.mkdir(parents=True, exist_ok=True)
        for chart in report.charts:
            if chart.name in names:
                (FIGURES / f"{recipe}-{chart.name}.png").write_bytes(png(chart))
        content = block(recipe, report, names)
        return f"<!-- stored: {recipe}{found[2]}-->\n{content}<!-- end of {recipe} -->"

    return BLOCK.sub(made, page.read_text(encoding="utf-8"))
