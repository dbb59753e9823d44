"""Measures of neural collapse for so many classes that only some pairs of them can be looked at."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from geocollapse.collapse.decisions import Disagreements, NearestMeanErrors, NearestMeans
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.sampled import PairSample, estimate_cdnv, estimate_directional_cdnv
from geocollapse.collapse.simplex import estimate_max_angle, estimate_uniformity
from geocollapse.collapse.statistics import ClassStatistics
from geocollapse.estimate import Estimate

_MAX_DECISIONS = 1 << 27  # examples times classes: 1 GiB of float64, of which one chunk is held
_MIN_EXAMPLES = 1000


def estimates_of_pairs(statistics: ClassStatistics, sample: PairSample) -> dict[str, Estimate]:
    """Estimate the measures that average over class pairs and need the class statistics only."""
    means = statistics.centred_means()
    return {
        "cdnv": estimate_cdnv(statistics, sample),
        "cdnv_bias_corrected": estimate_cdnv(statistics, sample, bias_corrected=True),
        "nc2_max_angle": estimate_max_angle("nc2_max_angle", means, sample),
        "hyperspherical_uniformity": estimate_uniformity(means, sample),
    }


def estimates_of_features(
    data: LabelledFeatures, weight: Tensor | None, bias: Tensor | None, sample: PairSample
) -> dict[str, Estimate]:
    """Estimate directional CDNV from class pairs, decisions from random examples."""
    nearest = NearestMeans(data)
    n_examples = max(_MIN_EXAMPLES, _MAX_DECISIONS // len(nearest.means))
    found = {
        "directional_cdnv": estimate_directional_cdnv(data, sample),
        "nearest_mean_error": NearestMeanErrors(nearest).estimate(n_examples),
    }
    if weight is not None and bias is not None:
        found["nc4"] = Disagreements(nearest, weight, bias).estimate(n_examples)
    return found


def about_estimates(estimates: Mapping[str, Estimate], sample: PairSample, n: int) -> list[str]:
    """How many pairs and how many of ``n`` examples were drawn, and what the estimates warn of."""
    pairs = {name: found for name, found in estimates.items() if found.estimator == "pairs"}
    shares = {name: found for name, found in estimates.items() if name not in pairs}
    notes = [
        f"averages from {len(sample):,} random class pairs of {sample.n_all:,}, with 95 % "
        f"intervals: {_intervals(pairs)}"
    ]
    if shares:
        m = max(found.n_samples for found in shares.values())
        notes.append(
            f"shares of {m:,} random examples of {n:,}, with 95 % intervals: {_intervals(shares)}"
        )
    return [*notes, *(warning for found in estimates.values() for warning in found.warnings)]


def _intervals(estimates: Mapping[str, Estimate]) -> str:
    ends = {name: found.interval() for name, found in estimates.items()}
    return ", ".join(f"{name} [{low:.4g}, {high:.4g}]" for name, (low, high) in ends.items())
