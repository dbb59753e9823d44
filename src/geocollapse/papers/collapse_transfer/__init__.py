"""Munn, Dherin, Gonzalvo (NeurIPS 2024): verdicts on its claims, computed from a sweep on disk.

The rules are those of definitions 5.
"""

from geocollapse.papers.collapse_transfer.judge import judge as judge
from geocollapse.papers.verdict import CLAIMS as CLAIMS
from geocollapse.papers.verdict import Verdict as Verdict
from geocollapse.papers.verdict import count as count
