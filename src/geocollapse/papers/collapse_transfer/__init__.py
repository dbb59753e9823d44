"""Munn, Dherin, Gonzalvo (NeurIPS 2024): geometric complexity, neural collapse and transfer.

The rules of its verdicts are those of definitions 5.
"""

from geocollapse.papers.claims import Paper
from geocollapse.papers.collapse_transfer.claims import CLAIMS as CLAIMS
from geocollapse.papers.collapse_transfer.judge import judge as judge

PAPER = Paper(
    name="collapse-transfer",
    citation="Munn, Dherin and Gonzalvo (2024)",
    claims=CLAIMS,
    judge=judge,
)
