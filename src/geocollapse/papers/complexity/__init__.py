"""Dherin, Munn, Rosca, Barrett (2022), arXiv 2209.13083: the regularisers of geometric complexity.

With the Occam's razor of Dherin, Munn, Barrett (2021), arXiv 2111.15090.
"""

from geocollapse.papers.claims import Paper
from geocollapse.papers.complexity.claims import CLAIMS as CLAIMS
from geocollapse.papers.complexity.claims import FIGURES
from geocollapse.papers.complexity.judge import judge as judge
from geocollapse.papers.correlations import RULE as CORRELATIONS
from geocollapse.papers.ordered import RULE as TRENDS
from geocollapse.papers.peaks import RULE as PEAKS

PAPER = Paper(
    name="complexity",
    citation="Dherin, Munn, Rosca and Barrett (2022), arXiv 2209.13083",
    claims=CLAIMS,
    judge=judge,
    figures=FIGURES,
    rules=f"{TRENDS} {CORRELATIONS} {PEAKS}",
)
