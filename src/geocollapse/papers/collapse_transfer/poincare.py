"""One Poincaré constant for all runs, and the nearest-mean bound against the measured error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import GC, GCOL, NC
from geocollapse.papers.collapse_transfer.claims import POINCARE_BOUND
from geocollapse.papers.verdict import Outcome, Verdict, View

if TYPE_CHECKING:
    import pandas as pd

RATIO = "source.poincare_ratio.max"
_INFINITE = "source.poincare_ratio.infinite"  # a list of class names as JSON text
_COMPARED = ("run_id", "step", "compared", "error", "bound")
_ROUNDING = 1e-9  # relative: an error equal to its bound is not above it


def judge_ratio(
    runs: pd.DataFrame, history: pd.DataFrame, *, factor: float, view: View = "main"
) -> Verdict:
    """Judge if the largest ratio rho = max_i Var_i/GC_i varies over the runs by at most ``factor``.

        effect = max over runs of rho / min over runs of rho

    With an infinite ratio (GC_i = 0 and Var_i > 0) no constant serves. With one that is undefined,
    or null in a file that does not say which classes are infinite, it is not known if one does.

    Source: Munn, Dherin, Gonzalvo (2024): NC <= c GCol with one c; definitions 3 and 5.
    """
    ratios = _positive(runs, RATIO)
    n_infinite, n_undefined = _left_out(runs)
    spread = float(ratios.max() / ratios.min()) if len(ratios) > 1 else np.nan
    outcome: Outcome = "undecided"
    if n_infinite and len(ratios):
        outcome = "does not hold"
        spread = np.inf
    elif len(ratios) > 1 and spread > factor:
        outcome = "does not hold"
    elif len(ratios) > 1 and not n_undefined:
        outcome = "holds"
    note = "It takes two runs with a Poincaré ratio."
    if len(ratios) > 1:
        note = _ratio_note(runs, history)
    return Verdict(
        claim=POINCARE_BOUND.name,
        statement=(
            f"the largest Poincaré ratio varies over the runs by at most a factor of {factor:g}"
        ),
        sweep="all runs",
        x="run",
        y=RATIO,
        verdict=outcome,
        n_runs=len(ratios) + n_infinite,
        figure="poincare-ratio",
        view=view,
        effect_name="largest / smallest",
        effect=spread,
        note=" ".join(filter(None, [_left_out_note(n_infinite, n_undefined), note])),
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


def _left_out(runs: pd.DataFrame) -> tuple[int, int]:
    """The numbers of measured runs whose ratio is infinite, and of those where it is null or 0.

    Strict JSON has no infinity: a ratio on disk is null, and the names of such classes are beside.
    """
    if GC not in runs:
        return 0, 0
    measured = runs[runs[GC].notna()]
    left_out = measured.drop(index=_positive(measured, RATIO).index)
    is_infinite = left_out.index != left_out.index
    if RATIO in left_out:
        is_infinite |= np.isinf(left_out[RATIO].astype(float))
    if _INFINITE in left_out:
        is_infinite |= left_out[_INFINITE].fillna("[]") != "[]"
    n_infinite = int(is_infinite.sum())
    return n_infinite, len(left_out) - n_infinite


def _left_out_note(n_infinite: int, n_undefined: int) -> str:
    said = []
    if n_infinite:
        said.append(f"Runs with an infinite ratio, from a class with GC 0: {n_infinite}.")
    if n_undefined:
        said.append(
            f"Runs without a positive, finite ratio: {n_undefined}; with them nothing can hold."
        )
    return " ".join(said)


def _positive(runs: pd.DataFrame, column: str) -> pd.Series:
    """The finite, positive values of a column; empty if it was not recorded."""
    import pandas as pd

    values = runs[column].astype(float) if column in runs else pd.Series(dtype=float)
    return values[np.isfinite(values) & (values > 0)]
