"""The page of a ranking: one HTML file with all it needs."""

from __future__ import annotations

from geocollapse.charts.chart import Chart
from geocollapse.charts.page import plotly_panels
from geocollapse.reports.environment import template
from geocollapse.reports.ranking_reading import ACCURACY, SHARES, RankingPage
from geocollapse.reports.ranking_tables import (
    agreement_table,
    model_table,
    model_warnings,
    preprocessing,
    ranking_table,
    score_table,
    settings,
    tie_table,
)


def render_ranking(page: RankingPage, charts: list[Chart]) -> str:
    """The page as text."""
    from jinja2.utils import htmlsafe_json_dumps
    from plotly.offline import get_plotlyjs

    ranking = page.ranking
    shared, different = preprocessing(page)
    return template("ranking.html.jinja").render(
        title=title_of(page),
        ranking=ranking,
        setting=_setting(page),
        table=ranking_table(page),
        is_measured=page.is_measured,
        in_points=ranking["ranked_by"] in SHARES,
        ties=tie_table(page) if ranking["pairs"] else None,
        agreement=agreement_table(page),
        scores=score_table(page),
        models=model_table(page),
        preprocessing=different,
        warnings=model_warnings(page),
        intervals=_intervals(page),
        provenance=[
            *settings(ranking["provenance"]),
            *((f"preprocessing, {key}", value) for key, value in shared),
        ],
        peak=_peak(page) if page.steps else "",
        charts={chart.name: chart for chart in charts},
        plotly_js=get_plotlyjs(),
        panels_json=htmlsafe_json_dumps(
            {chart.name: plotly_panels(chart) for chart in charts}, allow_nan=False
        ),
    )


def title_of(page: RankingPage) -> str:
    """What was ranked, and on which data."""
    data = page.ranking["data"] or "the examples given"
    split = page.ranking["split"]
    where = f"{data}, {split}" if split else data
    return f"{_counted(len(page.models), page.what)} ranked on {where}"


def _setting(page: RankingPage) -> str:
    """The examples and the episodes in a sentence."""
    ranking = page.ranking
    examples = f"{ranking['n_samples']:,} examples of {len(ranking['classes']):,} classes."
    episode = (
        f"{ranking['n_way']} classes, {_counted(ranking['k_shot'], 'labelled example')} of each"
    )
    if not ranking["classes"]:
        return (
            f"{ranking['n_samples']:,} examples without labels. Nothing was measured or predicted: "
            f"{page.ranked_by.full_name} alone orders the models, which is a guess."
        )
    if not page.is_measured:
        return f"{examples} Nothing was measured: accuracy is predicted for episodes of {episode}."
    queries = f"{_counted(ranking['n_query'], 'query', 'queries')} a class"
    classifier = ranking["classifier"].replace("_", " ")
    return (
        f"{examples} The same {ranking['n_episodes']:,} episodes for every model: {episode}, "
        f"{queries}; classifier: {classifier}."
    )


def _peak(page: RankingPage) -> str:
    """The step of the best checkpoint, and those that cannot be told apart from it."""
    best = page.models[0]
    found = page.interval(best, page.ranking["ranked_by"])
    unit = "%" if page.ranking["ranked_by"] in SHARES else ""
    tied = [s for s, model in zip(page.steps, page.models) if model["label"] in best["tied_with"]]
    steps = ", ".join(f"{step:,}" for step in sorted(tied))
    return (
        f"{page.ranked_by.full_name} is best at step {page.steps[0]:,} of {max(page.steps):,}: "
        f"{found.value:.4g}{unit}, {f'tied with steps {steps}' if tied else 'tied with none'}."
    )


def _counted(n: int, one: str, more: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else more or one + 's'}"


def _intervals(page: RankingPage) -> list[tuple[str, str]]:
    """What each interval speaks about."""
    ranking = page.ranking
    n_pairs = len(ranking["pairs"])
    about = [
        (
            "geometric complexity, scores, predicted accuracy",
            "other examples like these, drawn within these classes",
        )
    ]
    if page.is_measured:
        about = [
            (
                page.named(ACCURACY).full_name,
                f"other examples like these {ranking['n_samples']:,}, of these classes",
            ),
            (
                "learning curves",
                "further episodes of these examples: narrower, because the examples stay",
            ),
            *about,
            (
                "Kendall's τ",
                "these models on other examples; not other models, of which a few say little",
            ),
        ]
    if n_pairs:
        how = (
            "on the same examples and episodes"
            if page.is_measured
            else "as if their errors were independent, so that fewer are told apart than could be"
        )
        about.append(
            (
                "differences",
                f"compared {how}; p is two-sided and corrected for "
                f"{_counted(n_pairs, 'pair')} (Holm), tied is p > 0.05, and the interval is not "
                f"corrected",
            )
        )
    return about
