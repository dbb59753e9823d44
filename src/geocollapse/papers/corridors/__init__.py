"""Dherin and Rosca (2024), arXiv 2402.08818: corridors, and the corridor learning rate."""

from geocollapse.papers.claims import Paper
from geocollapse.papers.corridors.claims import CLAIMS as CLAIMS
from geocollapse.papers.corridors.claims import FIGURES
from geocollapse.papers.corridors.judge import judge as judge
from geocollapse.papers.margins import RULE

PAPER = Paper(
    name="corridors",
    citation="Dherin and Rosca (2024)",
    claims=CLAIMS,
    judge=judge,
    figures=FIGURES,
    rules=RULE,
)
