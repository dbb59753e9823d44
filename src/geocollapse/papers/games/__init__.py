"""Rosca, Wu, Dherin and Barrett (2021), arXiv 2105.13922: the drift of two-player games."""

from geocollapse.papers.claims import Paper
from geocollapse.papers.games.claims import CLAIMS as CLAIMS
from geocollapse.papers.games.claims import FIGURES, RULES
from geocollapse.papers.games.judge import judge as judge

PAPER = Paper(
    name="games",
    citation="Rosca, Wu, Dherin and Barrett (2021)",
    claims=CLAIMS,
    judge=judge,
    figures=FIGURES,
    rules=RULES,
    kind="game",
)
