"""``python benchmarks/many_classes.py``: CDNV of 100,000 classes x 768 in bounded memory.

The features are streamed. The interval from a sample of class pairs is also checked against all
pairs of 20,000 classes.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import torch

from geocollapse.collapse import ClassStatistics, mean_cdnv, sampled_cdnv
from geocollapse.estimate import Estimate

_CLASSES_A_BATCH = 500


def stream(n_classes: int, n_features: int, per_class: int) -> ClassStatistics:
    """Stream float32 features batch by batch; classes differ in spread by a factor of 4."""
    generator = torch.Generator().manual_seed(0)
    statistics = ClassStatistics.empty(n_classes)
    for start in range(0, n_classes, _CLASSES_A_BATCH):
        labels = torch.arange(start, min(start + _CLASSES_A_BATCH, n_classes))
        means = torch.randn(len(labels), 1, n_features, generator=generator)
        spread = 0.5 + 1.5 * torch.rand(len(labels), 1, 1, generator=generator)
        features = means + spread * torch.randn(
            len(labels), per_class, n_features, generator=generator
        )
        statistics.update(features.flatten(0, 1), labels.repeat_interleave(per_class))
    return statistics


def peak_gb() -> float:
    """Peak memory of this process in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def show(what: str, seconds: float, value: str) -> None:
    """Print one line."""
    print(f"{what:40s} {value:40s} {seconds:7.1f} s   peak {peak_gb():.2f} GB", flush=True)


def sampled(statistics: ClassStatistics, n_pairs: int) -> Estimate:
    """Estimate CDNV from sampled pairs, and print it."""
    start = time.perf_counter()
    estimate = sampled_cdnv(statistics, n_pairs)
    low, high = estimate.interval()
    show(
        f"{n_pairs:,} pairs of {len(statistics.classes):,} classes",
        time.perf_counter() - start,
        f"{estimate.value:.6f} [{low:.6f}, {high:.6f}]",
    )
    return estimate


def main() -> None:
    """Check the interval, then measure; exits with an error if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--check-classes", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--pairs", type=int, default=200_000)
    arguments = parser.parse_args()
    start = time.perf_counter()
    small = stream(arguments.check_classes, arguments.features, per_class=5)
    show(f"stream of {arguments.check_classes:,} classes", time.perf_counter() - start, "")
    start = time.perf_counter()
    exact = float(mean_cdnv(small)[0])
    show(
        f"all pairs of {arguments.check_classes:,} classes",
        time.perf_counter() - start,
        f"{exact:.6f}",
    )
    estimate = sampled(small, arguments.pairs)
    deviation = (estimate.value - exact) / estimate.stderr
    del small
    start = time.perf_counter()
    large = stream(arguments.classes, arguments.features, per_class=5)
    show(f"stream of {arguments.classes:,} classes", time.perf_counter() - start, "")
    sampled(large, arguments.pairs)
    print(f"the sample is {deviation:+.2f} standard errors from all pairs")
    if abs(deviation) > 4.0 or peak_gb() > 4.0:
        sys.exit("expected at most 4 standard errors and 4 GB")


if __name__ == "__main__":
    main()
