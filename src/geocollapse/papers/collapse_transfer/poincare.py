"""One Poincaré constant for all runs, and the nearest-mean bound against the measured error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import GCOL, NC
from geocollapse.papers.collapse_transfer.claims import POINCARE_BOUND
from geocollapse.papers.verdict import Outcome, Verdict, View

if TYPE_CHECKING:
    import pandas as pd

RATIO = "source.poincare_ratio.max"
_COMPARED = ("run_id", "step", "compared", "error", "bound")
_ROUNDING = 1e-9  # relative: an error equal to its bound is not above it


def judge_ratio(
    runs: pd.DataFrame, history: pd.DataFrame, *, factor: float, view: View = "main"
) -> Verdict:
    """Judge if the largest ratio rho = max_i Var_i/GC_i varies over the runs by at most ``factor``.

        effect = max over runs of rho / min over runs of rho

    Source: Munn, Dherin, Gonzalvo (2024): NC <= c GCol with one c; definitions 3 and 5.
    """
    ratios = _positive(runs, RATIO)
    spread = _spread(ratios) if len(ratios) > 1 else np.nan
    outcome: Outcome = "undecided"
    n_undefined = len(runs) - len(ratios) if len(ratios) else 0
    if len(ratios) > 1:
        holds: Outcome = "undecided" if n_undefined else "holds"
        outcome = holds if spread <= factor else "does not hold"
    about_undefined = (
        f"{n_undefined} of {len(runs)} runs have no finite ratio: geometric complexity of a class "
        f"is 0. "
        if n_undefined
        else ""
    )
    return Verdict(
        claim=POINCARE_BOUND.name,
        statement=(
            f"the largest Poincaré ratio varies over the runs by at most a factor of {factor:g}"
        ),
        sweep="all runs",
        x="run",
        y=RATIO,
        verdict=outcome,
        n_runs=len(ratios),
        figure="poincare-ratio",
        view=view,
        effect_name="largest / smallest",
        effect=spread,
        note=about_undefined
        + (
            _ratio_note(runs, history)
            if len(ratios) > 1
            else "It takes two runs with a Poincaré ratio."
        ),
    )


def judge_bound(runs: pd.DataFrame, history: pd.DataFrame, *, view: View = "main") -> Verdict:
    """Judge if no measured error is above its bound, at any record of any run.

        effect = largest error / bound;
            a few-shot error counts with the lower end of its interval

    The bound is a theorem, so this checks the code. Bounds are for as many ways as there are
    classes, so few-shot errors are compared only where n_way = n_classes.

    Source: definitions 4; Galanti, Gyorgy, Hutter (2022).
    """
    compared = error_and_bound(history[history["run_id"].isin(runs["run_id"])])
    outcome: Outcome = "undecided"
    if len(compared):
        above = compared["error"] > compared["bound"] * (1 + _ROUNDING)
        outcome = "does not hold" if above.any() else "holds"
    return Verdict(
        claim=POINCARE_BOUND.name,
        statement="no measured error is above the nearest-mean bound",
        sweep="all runs",
        x="nearest-mean bound",
        y="nearest-mean error",
        verdict=outcome,
        n_runs=int(compared["run_id"].nunique()),
        figure="bound",
        view=view,
        effect_name="largest error / bound",
        effect=float((compared["error"] / compared["bound"].where(compared["bound"] > 0)).max()),
        remark=vacuous_remark(runs) if len(compared) else "",
        note=(
            f"{len(compared)} comparisons over all records; true by proof, so evidence for the "
            "code only."
            if len(compared)
            else "No run recorded a bound with its error."
        ),
    )


def vacuous_remark(runs: pd.DataFrame) -> str:
    """The number of runs whose bound is vacuous at the end of training, in words."""
    parts = []
    for population in ("source", "target"):
        column = f"{population}.nearest_mean_bound.inf.vacuous"
        if column in runs and runs[column].notna().any():
            vacuous = runs[column].dropna().astype(bool)
            parts.append(f"{population} {int(vacuous.sum())}/{len(vacuous)}")
    return f"bound vacuous at the end in {', '.join(parts)} runs" if parts else ""


def _spread(ratios: pd.Series) -> float:
    """Largest over smallest ratio, infinite if one is: there the features do not move at all."""
    return np.inf if np.isinf(ratios.max()) else float(ratios.max() / ratios.min())


def _ratio_note(runs: pd.DataFrame, history: pd.DataFrame) -> str:
    """How far the ratio moves in training, and how often a constant of the other runs serves."""
    parts = []
    records = history[history["run_id"].isin(runs["run_id"])]
    if RATIO in records:
        by_run = records[records[RATIO] > 0].groupby("run_id")[RATIO]
        parts.append(
            f"Over training it moves by a factor of {(by_run.max() / by_run.min()).median():.3g} "
            "(median run)"
        )
    if {RATIO, NC, GCOL} <= set(runs.columns):
        complete = runs[[RATIO, NC, GCOL]].astype(float).dropna()
        served = [
            row[NC] <= complete[RATIO].drop(index).max() * row[GCOL]
            for index, row in complete.iterrows()
        ]
        parts.append(
            f"with c the largest ratio of the other runs, NC <= c GCol in {sum(served)} of "
            f"{len(served)} runs"
        )
    return "; ".join(parts) + "." if parts else ""


def error_and_bound(records: pd.DataFrame) -> pd.DataFrame:
    """Every comparison that the records allow: columns run_id, step, compared, error, bound."""
    import pandas as pd

    compared = [_pairs(records, *pair) for pair in _comparisons(records)]
    return (
        pd.concat(compared, ignore_index=True).dropna()
        if compared
        else pd.DataFrame(columns=list(_COMPARED))
    )


def _comparisons(records: pd.DataFrame) -> Iterator[tuple[str, pd.Series, pd.Series]]:
    """Name, errors and bounds: class means with the `inf` bound, m shots with the m-shot bound."""
    for population in ("source", "target"):
        error = f"{population}.nearest_mean_error"
        bound = f"{population}.nearest_mean_bound.inf.best"
        if {error, bound} <= set(records.columns):
            yield f"{population}, class means", records[error], records[bound]
    if not {"target.n_way", "target.n_classes"} <= set(records.columns):
        return
    whole = records[records["target.n_way"] == records["target.n_classes"]]
    for shots in ("1", "5"):
        upper = f"target.accuracy.nearest_mean.{shots}.ci95.1"
        bound = f"target.nearest_mean_bound.{shots}.best"
        if {upper, bound} <= set(records.columns):
            yield f"target, {shots}-shot", 1.0 - whole[upper].astype(float), whole[bound]


def _pairs(records: pd.DataFrame, name: str, error: pd.Series, bound: pd.Series) -> pd.DataFrame:
    """One comparison as a table, for the records in the index of ``error``."""
    pairs = records.loc[error.index, ["run_id", "step"]].assign(compared=name)
    return pairs.assign(error=error.astype(float), bound=bound.astype(float))


def _positive(runs: pd.DataFrame, column: str) -> pd.Series:
    """The positive values of a column, also infinite ones; empty if it was not recorded."""
    import pandas as pd

    values = runs[column].astype(float) if column in runs else pd.Series(dtype=float)
    return values[values > 0]
