"""Rosca, Wu, Qin, Dherin (2023), arXiv 2302.01952: principal flow, edge of stability, DAL."""

from geocollapse.papers.claims import Paper
from geocollapse.papers.margins import RULE as MARGINS
from geocollapse.papers.ordered import RULE as TRENDS
from geocollapse.papers.principal_flow.claims import CLAIMS as CLAIMS
from geocollapse.papers.principal_flow.claims import FIGURES
from geocollapse.papers.principal_flow.judge import judge as judge

PAPER = Paper(
    name="principal-flow",
    citation="Rosca, Wu, Qin and Dherin (2023)",
    claims=CLAIMS,
    judge=judge,
    figures=FIGURES,
    rules=f"{MARGINS} {TRENDS}",
)
