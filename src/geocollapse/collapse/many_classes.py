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
    of_pairs = [name for name, found in estimates.items() if found.estimator == "pairs"]
    of_examples = [name for name in estimates if name not in of_pairs]
    notes = [
        f"{', '.join(of_pairs)}: from {len(sample):,} random class pairs of {sample.n_all:,}; read "
        f"their intervals: {_intervals(estimates, of_pairs)}"
    ]
    if of_examples:
        m = estimates[of_examples[0]].n_samples
        notes.append(
            f"{', '.join(of_examples)}: from {m:,} random examples of {n:,}; read their intervals: "
            f"{_intervals(estimates, of_examples)}"
        )
    return [*notes, *(warning for found in estimates.values() for warning in found.warnings)]


def _intervals(estimates: Mapping[str, Estimate], names: list[str]) -> str:
    ends = (estimates[name].interval() for name in names)
    return ", ".join(f"[{low:.4g}, {high:.4g}]" for low, high in ends)
