"""How often a trend of a given size is found: Page's test beside the rule on means of settings.

    python benchmarks/verdict_power.py [--trials 2000]
    python benchmarks/verdict_power.py --stored results

A sweep of S settings and 3 seeds is drawn: log GC = slope * position + noise, noise normal with
standard deviation 1 a run, independent. Each rule passes `holds` at p <= 0.05 after Holm's factor
of 3 (the claim on training choices has three pairs a sweep), and where an interval is asked for,
with one without 0. Slope 0 is the null. Slopes are in standard deviations of the noise, a setting.

With `--stored` the slopes and the noise of the stored sweeps of the main paper are printed instead:
the slope of log GC over the settings in their order, by least squares on the means of converged
seeds, and the standard deviation over the seeds of a setting, pooled over the settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from geocollapse.experiments.recipe import MAIN_PAPER
from geocollapse.experiments.results.tables import GC, read_sweep
from geocollapse.papers.statistics import bootstrap_interval, permutation_p
from geocollapse.papers.trends import page_p

SLOPES = (0.0, 0.25, 0.5, 1.0, 2.0)
SIZES = ((5, 3), (7, 3))
HOLM = 3
LEVEL = 0.05


def found(n_settings: int, n_seeds: int, slope: float, seed: int) -> tuple[bool, bool, bool]:
    """True where the means' rule, Page's p alone, and Page's p with the interval find the trend."""
    rng = np.random.default_rng([n_settings, n_seeds, round(100 * slope), seed])
    x = np.arange(float(n_settings))
    y = slope * x + rng.normal(size=(n_seeds, n_settings))
    excludes = bootstrap_interval(x, y.mean(axis=0), seed=seed)[0] > 0
    by_means = HOLM * permutation_p(x, y.mean(axis=0), sign=1) <= LEVEL + 1e-12
    blocks = np.repeat(np.arange(n_seeds), n_settings)
    by_page = HOLM * page_p(np.tile(x, n_seeds), y.ravel(), blocks, sign=1) <= LEVEL + 1e-12
    return by_means and excludes, by_page, by_page and excludes


def power(n_settings: int, n_seeds: int, slope: float, trials: int) -> tuple[float, float, float]:
    """Shares of trials in which each rule finds the trend."""
    outcomes = [found(n_settings, n_seeds, slope, seed) for seed in range(trials)]
    means, page, both = np.mean(outcomes, axis=0)
    return float(means), float(page), float(both)


def stored(folder: Path) -> None:
    """Print the slope of log GC a setting over the noise of a run, for every stored sweep."""
    print("recipe, sweep: slope a setting, noise of a run, slope / noise")
    for path in sorted(folder.glob("*/*/sweep.yaml")):
        results = read_sweep(path.parent)
        papers = results.recipe["claims"]["papers"]
        for sweep in results.sweeps if papers == [MAIN_PAPER] else ():
            runs = results.of_sweep(sweep)
            runs = runs[runs["converged"].astype(bool)]
            seeds = np.log(runs[GC].astype(float)).groupby(runs["position"])
            means = seeds.mean()
            slope = float(np.polyfit(np.arange(len(means)), means, 1)[0])
            freedom = seeds.size() - 1
            noise = float(np.sqrt((seeds.var() * freedom).sum() / freedom.sum()))
            ratio = abs(slope) / noise
            print(f"{results.recipe['name']}, {sweep}: {slope:+.3f}, {noise:.3f}, {ratio:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="power of the verdicts on training choices")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--stored", type=Path, help="the folder of stored sweeps")
    options = parser.parse_args()
    if options.stored is not None:
        stored(options.stored)
        return
    trials = options.trials
    print(f"{trials} sweeps each; share found (in %)")
    print("settings  seeds  slope / noise   means   Page   Page and interval")
    for n_settings, n_seeds in SIZES:
        for slope in SLOPES:
            shares = power(n_settings, n_seeds, slope, trials)
            numbers = "   ".join(f"{100 * share:5.1f}" for share in shares)
            print(f"{n_settings:8}  {n_seeds:5}  {slope:13}  {numbers}", flush=True)


if __name__ == "__main__":
    main()
