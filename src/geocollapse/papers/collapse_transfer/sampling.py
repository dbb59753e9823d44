"""Sampled estimates of geometric complexity against the full value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geocollapse.papers.collapse_transfer.claims import SAMPLING
from geocollapse.papers.statistics import wilson_interval
from geocollapse.papers.verdict import Outcome, Verdict, View

if TYPE_CHECKING:
    import pandas as pd

MIN_INTERVALS = 200


def judge_sampling(
    sampling: pd.DataFrame, *, coverage: float, relative_error: float, view: View = "main"
) -> list[Verdict]:
    """One verdict for each way of sampling, by the coverage of its intervals and its error.

        coverage = share of intervals with low <= full <= high;    error = median |value/full - 1|

    Source: definitions 5.
    """
    complete = sampling.dropna(subset=["full", "value", "low", "high"])
    complete = complete[complete["full"] != 0]
    if complete.empty:
        return [_no_study(view)]
    groups = complete.groupby(["method", "n_samples", "n_probes"], dropna=False, sort=False)
    return [
        _judge(
            _name(estimates.iloc[0]),
            estimates,
            coverage=coverage,
            relative_error=relative_error,
            view=view,
        )
        for _, estimates in groups
    ]


def _judge(
    name: str, estimates: pd.DataFrame, *, coverage: float, relative_error: float, view: View
) -> Verdict:
    inside = (estimates["low"] <= estimates["full"]) & (estimates["full"] <= estimates["high"])
    error = float((estimates["value"] / estimates["full"] - 1).abs().median())
    outcome: Outcome = "undecided"
    few = f" Fewer than {MIN_INTERVALS} intervals: undecided."
    if len(estimates) >= MIN_INTERVALS:
        is_good = inside.mean() >= coverage and error <= relative_error
        outcome = "holds" if is_good else "does not hold"
        few = ""
    return Verdict(
        claim=SAMPLING.name,
        statement=(
            f"at least {100 * coverage:g} % of the intervals hold the full value, and the median "
            f"relative error is at most {100 * relative_error:g} %"
        ),
        sweep="all runs",
        x=name,
        y="full value",
        verdict=outcome,
        n_runs=estimates["run_id"].nunique(),
        figure="sampling",
        view=view,
        effect_name="coverage",
        effect=float(inside.mean()),
        interval=wilson_interval(int(inside.sum()), len(estimates)),
        note=f"Median relative error {100 * error:.1f} % over {len(estimates)} intervals.{few}",
    )


def _name(estimate: pd.Series) -> str:
    """The method in words: its name, which has the size of the sample, or both numbers."""
    method = str(estimate["method"])
    if method[-1].isdigit():
        return method
    stated = estimate[["n_samples", "n_probes"]].dropna()
    return ", ".join([method, *(f"{key} = {value:g}" for key, value in stated.items())])


def _no_study(view: View) -> Verdict:
    return Verdict(
        claim=SAMPLING.name,
        statement="sampled estimates agree with the full value",
        sweep="all runs",
        x="sampled estimate",
        y="full value",
        verdict="undecided",
        n_runs=0,
        figure="",
        view=view,
        effect_name="coverage",
        note="No run has a sampling study.",
    )
