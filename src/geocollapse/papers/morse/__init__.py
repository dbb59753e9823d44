"""Dherin, Hu, Ren, Dusenberry, Lakshminarayanan (2023), arXiv 2307.00667: Morse networks."""

from geocollapse.papers.claims import BenchmarkPaper
from geocollapse.papers.morse.claims import CLAIMS as CLAIMS
from geocollapse.papers.morse.judge import RULE
from geocollapse.papers.morse.judge import judge as judge

PAPER = BenchmarkPaper(
    name="morse",
    citation="Dherin, Hu, Ren, Dusenberry and Lakshminarayanan (2023), arXiv 2307.00667",
    claims=CLAIMS,
    judge=judge,
    rules=RULE,
)
