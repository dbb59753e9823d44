"""Verdicts on the Lie bracket of two tasks: order effect, direction, losses, forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.experiments.results.tables import SweepResults, finished
from geocollapse.papers.margins import Margin, corrected
from geocollapse.papers.multitask.claims import (
    ALL_STEPS,
    DIRECTION,
    FORGETTING,
    LEAST_COSINE,
    ORDER_EFFECT,
    STUDY,
    WHICH_ORDER,
)
from geocollapse.papers.verdict import Verdict
from geocollapse.papers.within_runs import record_correlations, seed_means

if TYPE_CHECKING:
    import pandas as pd

    from geocollapse.papers.claims import Claim

_SCALE = "gradient norms"  # ||g_1|| ||g_2||
_MISSING = "No run recorded `measuring.order_effect` often enough."


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict on the study of two tasks, over all finished runs of the folder.

    Each has one value a seed, the mean over its runs; Holm's correction counts the verdicts of a
    claim. Runs count whether or not they converged: the claims are about records, wherever
    training is.

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: unused, as nothing is sampled.
    """
    del seed
    study = Study.of(results)
    judged = [
        *_order_effect(study),
        *_direction(study),
        *_which_order(study),
        *_forgetting(study),
    ]
    return tuple(corrected(judged))


@dataclass(frozen=True)
class Study:
    """The records of two tasks in turn.

    Attributes:
        runs: finished ones, with the `setting` of the first sweep of each.
        history: their records, with the product of both gradient norms.
        steps: every m, in order; 1 where none was recorded.
    """

    runs: pd.DataFrame
    history: pd.DataFrame
    steps: tuple[int, ...]

    @classmethod
    def of(cls, results: SweepResults) -> Study:
        """The study of a sweep folder."""
        runs = finished(results.runs)
        first = results.settings.drop_duplicates("run_id")[["run_id", "setting"]]
        history = results.history
        norms = ("order_effect.gradient_norm", "order_effect.other_gradient_norm")
        if set(norms) <= set(history.columns):
            history = history.assign(**{_SCALE: history[norms[0]] * history[norms[1]]})
        named = (name.removeprefix(f"{STUDY}.").partition(".") for name in history.columns)
        steps = {int(m) for m, _, key in named if key == "norm" and m.isdigit()}
        runs = runs.merge(first, on="run_id", how="left")
        return cls(runs, history, tuple(sorted(steps)) or (1,))

    def correlated(self, verdict: Verdict) -> Verdict:
        """The verdict on the correlation of its x with its y over the records of a run.

        It is on the average over pairs of tasks, so that its remark has the range of their means.
        """
        found = record_correlations(self.runs, self.history, verdict.x, verdict.y)
        if found.empty:
            return replace(verdict, note=_MISSING)
        pairs = found.groupby("setting")["rho"].mean()
        means = seed_means(found)
        if len(pairs) > 1:
            statement = f"{verdict.statement}, on average over pairs of tasks"
            verdict = replace(verdict, statement=statement)
        said = f"{means.mean():+.2f}"
        if len(pairs) > 1:
            said += f" ({pairs.min():+.2f} to {pairs.max():+.2f} over {len(pairs)} pairs of tasks)"
        remark = "; ".join(filter(None, (said, verdict.remark)))
        verdict = replace(verdict, n_runs=len(found), n_settings=len(pairs), remark=remark)
        return Margin(0.0, 1, scale="correlation").judged(verdict, means)

    def alone(self, words: str, x: str, y: str) -> str:
        """The mean correlation of another column with y, in words; nothing without one."""
        means = seed_means(record_correlations(self.runs, self.history, x, y))
        return f"{words} alone {means.mean():+.2f}" if len(means) else ""

    def signs(self, x: str, y: str) -> str:
        """How often x has the sign of y, and how common the commoner sign of y is, in words."""
        if not {x, y} <= set(self.history.columns):
            return ""
        own = self.history["run_id"].isin(self.runs["run_id"])
        known = self.history.loc[own, [x, y]].astype(float).dropna()
        if known.empty:
            return ""
        right = float((np.sign(known[x]) == np.sign(known[y])).mean())
        positive = float((known[y] > 0.0).mean())
        return f"sign right in {right:.0%}, commoner sign {max(positive, 1.0 - positive):.0%}"

    def means(self, name: str) -> pd.DataFrame:
        """The mean of a column over the records of each run that has it."""
        if name not in self.history:
            return self.runs.head(0).assign(mean=0.0)
        of_run = self.history[["run_id", name]].dropna().groupby("run_id")[name].mean()
        return self.runs.assign(mean=self.runs["run_id"].map(of_run)).dropna(subset=["mean"])

    def over_all_steps(self, *names: str) -> Study:
        """The study with the records of every m below each other."""
        import pandas as pd

        columns = [column(ALL_STEPS, name) for name in names]
        parts = []
        for m in self.steps:
            if not {column(m, name) for name in names} <= set(self.history.columns):
                continue
            own = self.history[["run_id", *(column(m, name) for name in names)]]
            parts.append(own.set_axis(["run_id", *columns], axis="columns"))
        return replace(self, history=pd.concat(parts)) if parts else self


def column(m: int | str, name: str) -> str:
    """The column of a measure after m steps on each task."""
    return f"{STUDY}.{m}.{name}"


def _order_effect(study: Study) -> Iterator[Verdict]:
    """Judge the size of the order effect, over all m and at each."""
    names = ("predicted_norm", "norm")
    verdict = _verdict(
        ORDER_EFFECT,
        "over all numbers of steps, the predicted size goes with the measured one",
        *(column(ALL_STEPS, name) for name in names),
    )
    verdict = replace(verdict, note="Strong by arithmetic: both sides grow as (m h)^2.")
    yield study.over_all_steps(*names).correlated(verdict)
    for m in study.steps:
        verdict = _verdict(
            ORDER_EFFECT,
            f"after {_steps(m)} on each task, the predicted size goes with the measured one",
            *(column(m, name) for name in names),
        )
        remark = study.alone("gradient norms", _SCALE, column(m, "norm"))
        yield study.correlated(replace(verdict, remark=remark))


def _direction(study: Study) -> Iterator[Verdict]:
    """Judge the cosine after the fewest steps, and its fall to the most."""
    cosines = {m: study.means(column(m, "cosine")) for m in study.steps}
    known = {m: runs for m, runs in cosines.items() if len(runs)}
    first, last = (min(known, default=1), max(known, default=1))
    verdict = _verdict(
        DIRECTION,
        f"after {_steps(first)} on each task, the cosine is above {LEAST_COSINE:g}",
        "first",
        column(first, "cosine"),
    )
    verdict = replace(
        verdict, effect_name="mean cosine", note="" if known else _MISSING, figure="order-cosine"
    )
    fall = replace(
        verdict,
        statement=f"the cosine is lower after {_steps(last)} than after {_steps(first)}",
        x="fall",
        effect_name="fall of the mean cosine",
    )
    if not known:
        yield from (verdict, fall)
        return
    verdict = replace(verdict, n_runs=len(known[first]))
    yield Margin(LEAST_COSINE, 1).judged(verdict, seed_means(known[first], "mean"))
    means = ", ".join(f"{m}: {seed_means(runs, 'mean').mean():.2f}" for m, runs in known.items())
    both = known[first].merge(known[last], on=["run_id", "seed"], suffixes=("", ".last"))
    both["fall"] = both["mean"] - both["mean.last"]
    fall = replace(fall, n_runs=len(both), remark=f"cosine by m {means}")
    yield Margin(0.0, 1).judged(fall, seed_means(both, "fall"))


def _which_order(study: Study) -> Iterator[Verdict]:
    """Judge the difference that the order makes to the loss of task 1, and of both tasks."""
    for m in study.steps:
        for of, words in (("gap", "of task 1"), ("total_gap", "of both tasks")):
            x = column(m, f"predicted_{of}")
            y = column(m, of)
            verdict = _verdict(
                WHICH_ORDER,
                f"after {_steps(m)}, the predicted difference of the loss {words} between both "
                "orders goes with the measured one",
                x,
                y,
            )
            yield study.correlated(replace(verdict, remark=study.signs(x, y)))


def _forgetting(study: Study) -> Iterator[Verdict]:
    """Judge what task 1 loses against the bracket, and against all of second order."""
    for m in study.steps:
        y = column(m, "forgetting")
        remark = study.alone("first order", column(m, "forgetting_first_order"), y)
        verdict = _verdict(
            FORGETTING,
            f"after {_steps(m)}, the part of the bracket goes with forgetting",
            column(m, "predicted_gap"),
            y,
        )
        yield study.correlated(replace(verdict, remark=remark))
        verdict = _verdict(
            FORGETTING,
            f"after {_steps(m)}, the prediction to second order goes with forgetting",
            column(m, "forgetting_second_order"),
            y,
        )
        yield study.correlated(replace(verdict, remark=study.signs(verdict.x, y)))


def _verdict(claim: Claim, statement: str, x: str, y: str) -> Verdict:
    return Verdict(
        claim=claim.name,
        statement=statement,
        sweep="all runs",
        x=x,
        y=y,
        verdict="undecided",
        n_runs=0,
        figure=claim.figures[0],
        effect_name="mean rho over records",
    )


def _steps(m: int) -> str:
    return "one step" if m == 1 else f"{m} steps"
