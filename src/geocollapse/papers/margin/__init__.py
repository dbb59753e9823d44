"""Munn, Dherin, Gonzalvo (2024), arXiv 2405.18590: a margin bound through geometric complexity."""

from geocollapse.papers.claims import Paper
from geocollapse.papers.correlations import RULE as CORRELATIONS
from geocollapse.papers.margin.claims import CLAIMS as CLAIMS
from geocollapse.papers.margin.claims import FIGURES
from geocollapse.papers.margin.judge import judge as judge
from geocollapse.papers.ordered import RULE as TRENDS

PAPER = Paper(
    name="margin",
    citation="Munn, Dherin and Gonzalvo (2024), arXiv 2405.18590",
    claims=CLAIMS,
    judge=judge,
    figures=FIGURES,
    rules=f"{CORRELATIONS} {TRENDS}",
)
