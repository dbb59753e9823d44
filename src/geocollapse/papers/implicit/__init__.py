"""Barrett, Dherin (2021) and Smith, Dherin, Barrett, De (2021): implicit gradient regularisation.

arXiv 2009.11162 for gradient descent, arXiv 2101.12176 for SGD.
"""

from geocollapse.papers.claims import Paper
from geocollapse.papers.implicit.claims import CLAIMS as CLAIMS
from geocollapse.papers.implicit.claims import FIGURES
from geocollapse.papers.implicit.judge import judge as judge
from geocollapse.papers.margins import RULE as MARGINS
from geocollapse.papers.ordered import RULE as TRENDS

PAPER = Paper(
    name="implicit",
    citation="Barrett and Dherin (2021) and Smith, Dherin, Barrett and De (2021)",
    claims=CLAIMS,
    judge=judge,
    figures=FIGURES,
    rules=f"{TRENDS} {MARGINS}",
)
