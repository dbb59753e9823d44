"""The verdicts on the claims of GC-NC, computed from a sweep on disk by the rules of definitions 5."""

from __future__ import annotations

from geocollapse.experiments.claims.judge import judge as judge
from geocollapse.experiments.claims.verdict import CLAIMS as CLAIMS
from geocollapse.experiments.claims.verdict import Verdict as Verdict
from geocollapse.experiments.claims.verdict import count as count

__all__ = ["CLAIMS", "Verdict", "count", "judge"]
