"""Dherin (2023), arXiv 2311.00235: implicit biases of multitask and continual learning."""

from geocollapse.papers.claims import Paper
from geocollapse.papers.margins import RULE
from geocollapse.papers.multitask.claims import CLAIMS as CLAIMS
from geocollapse.papers.multitask.claims import FIGURES
from geocollapse.papers.multitask.judge import judge as judge

PAPER = Paper(
    name="multitask",
    citation="Dherin (2023)",
    claims=CLAIMS,
    judge=judge,
    figures=FIGURES,
    rules=RULE,
)
