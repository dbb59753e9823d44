"""Verdicts on the claims of Rosca et al. (2021)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from geocollapse.experiments.results.tables import SweepResults, finished, finite_rows
from geocollapse.papers.games.claims import (
    CANCELLED,
    GAN_DIVERGENCE,
    MIN_ORDER,
    MIN_RATES,
    MODIFIED_FLOW,
    PER_PLAYER,
    PLAY_ORDER,
    RATE,
    RATE_MARGIN,
)
from geocollapse.papers.margins import MIN_SEEDS
from geocollapse.papers.significance import decided, with_holm
from geocollapse.papers.statistics import Array, mcnemar_p, paired_share_interval
from geocollapse.papers.verdict import Verdict
from geocollapse.papers.within_runs import seed_means

if TYPE_CHECKING:
    import pandas as pd

_RATES = ("learning_rates.0", "learning_rates.1")
_UPDATES = ("n_updates.0", "n_updates.1")
# of two runs of a seed that differ in their cancelled drift alone
_SETTINGS = (*_RATES, *_UPDATES, "spectral_norm", "n_turns", "record_every")


def judge(results: SweepResults, *, seed: int = 0) -> tuple[Verdict, ...]:
    """Every verdict that the sweep allows.

    A game that diverges is judged like any other; runs that failed are left out.

    Args:
        results: a sweep folder as read by `read_sweep`.
        seed: unused, as nothing is sampled.
    """
    del seed
    found: list[Verdict] = []
    divergences: list[Verdict] = []
    for sweep in results.sweeps:
        runs = finished(results.of_sweep(sweep))
        found += _on_numbers(sweep, _of_game(runs, "bilinear"), results.history)
        found += _on_flows(sweep, _of_game(runs, "dirac-gan"), results.history)
        divergences += _on_divergence(sweep, _of_game(runs, "digits-gan"))
    return (*found, *_tested(divergences))


def _of_game(runs: pd.DataFrame, game: str) -> pd.DataFrame:
    """The runs of one game; none where no run is a game."""
    return runs[runs["game"] == game] if "game" in runs else runs.iloc[:0]


def _on_numbers(sweep: str, runs: pd.DataFrame, history: pd.DataFrame) -> Iterator[Verdict]:
    """Order of play and cancelled drift in the game of two numbers, as the claims have it.

    At their rate, with one update of each player in a turn, and all of the drift cancelled.
    """
    if runs.empty:
        return
    fixed = runs[(runs[[*_RATES]] == RATE).all(axis=1) & (runs[[*_UPDATES]] == 1).all(axis=1)]
    grown = _growth(fixed, history)
    plain = grown[grown["cancel"] == "none"]
    yield _spiral(sweep, plain[plain["order"] == "simultaneous"], "simultaneous", 1)
    yield _spiral(sweep, plain[plain["order"] == "alternating"], "alternating", -1)
    cancelled = _all_cancelled(grown)
    yield _as_the_flow(sweep, cancelled[cancelled["order"] == "simultaneous"])


def _all_cancelled(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that cancel all of their interaction drift, and no other."""
    return runs[(runs["cancel"] == "interaction") & (runs["cancel_weight"] == 1.0)]


def _spiral(sweep: str, runs: pd.DataFrame, order: str, sign: int) -> Verdict:
    """Judge if the distance from the equilibrium grows (+1) or shrinks (-1) in one order."""
    verdict = Verdict(
        claim=PLAY_ORDER.name,
        statement=f"{order} turns {'diverge' if sign > 0 else 'converge'}",
        sweep=sweep,
        x=order,
        y="distance",
        verdict="undecided",
        n_runs=len(runs),
        figure=f"game-distance-{sweep}",
        effect_name="distance / that of the start",
    )
    growth = seed_means(runs, "growth")
    verdict = replace(verdict, effect=math.exp(growth.mean()) if len(growth) else math.nan)
    return _from_every_start(verdict, sign * growth, np.exp(growth))


def _as_the_flow(sweep: str, runs: pd.DataFrame) -> Verdict:
    """Judge if cancelled turns approach the equilibrium at the rate of the flow."""
    verdict = Verdict(
        claim=CANCELLED.name,
        statement="simultaneous turns without interaction converge as the flow does",
        sweep=sweep,
        x="cancelled",
        y="distance",
        verdict="undecided",
        n_runs=len(runs),
        figure=f"game-distance-{sweep}",
        effect_name="rate / that of the flow",
    )
    ratios = seed_means(runs.assign(ratio=runs["growth"] / runs["flow_growth"]), "ratio")
    verdict = replace(verdict, effect=float(ratios.mean()) if len(ratios) else math.nan)
    return _from_every_start(verdict, RATE_MARGIN - np.abs(ratios - 1.0), ratios)


def _from_every_start(verdict: Verdict, beyond: Array, values: Array) -> Verdict:
    """The verdict of all starting points together, which has no interval and no p.

    Args:
        verdict: with its words and effect.
        beyond: (n_starts,), positive where the claim holds.
        values: (n_starts,), to be shown.
    """
    if not len(values):
        return verdict
    n = len(values)
    verdict = replace(
        verdict,
        remark=f"{values.min():.4g} to {values.max():.4g} over {n} starting points",
        note="No interval: the game is linear, and its seeds only rotate the start.",
    )
    if n < MIN_SEEDS:
        note = f"{verdict.note} Below {MIN_SEEDS} starting points nothing is decided."
        return replace(verdict, note=note)
    if (beyond > 0.0).all():
        return replace(verdict, verdict="holds")
    return replace(verdict, verdict="does not hold" if (beyond < 0.0).all() else "undecided")


def _growth(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The runs with the logarithm of the end over the start of their distance, and of the flow's.

    The columns `growth` and `flow_growth`; runs without a finite distance are left out.
    """
    started = history[history["step"] == 0][["run_id", "distance"]]
    paired = runs.merge(started, on="run_id", suffixes=("", "_at_start"))
    found = finite_rows(paired, ("distance", "flow_distance", "distance_at_start"))
    own = paired.loc[found.index]
    return own.assign(
        growth=np.log(found["distance"] / found["distance_at_start"]),
        flow_growth=np.log(found["flow_distance"] / found["distance_at_start"]),
    )


def _on_flows(sweep: str, runs: pd.DataFrame, history: pd.DataFrame) -> Iterator[Verdict]:
    """The order in the rates of both modified flows, in a sweep over rates of one ratio."""
    if runs.empty:
        return
    plain = runs[runs["cancel"] == "none"].drop_duplicates([*_RATES, "order"])
    ratios = (plain[_RATES[1]] / plain[_RATES[0]]).to_numpy(dtype=float)
    if plain["order"].nunique() != 1 or np.ptp(ratios) > 1e-9 * ratios.max() or len(plain) < 2:
        return
    yield _order(sweep, plain, history, "joint")
    yield _order(sweep, plain, history, "per_player")


def _order(
    sweep: str,
    runs: pd.DataFrame,
    history: pd.DataFrame,
    convention: Literal["joint", "per_player"],
) -> Verdict:
    """Judge the order of one convention, beside that of the flow of the game."""
    claim = MODIFIED_FLOW if convention == "joint" else PER_PLAYER
    play_order = runs["order"].iloc[0]
    ratio = runs[_RATES[0]].iloc[0] / runs[_RATES[1]].iloc[0]
    verdict = Verdict(
        claim=claim.name,
        statement=f"second order in {play_order} turns, rates {ratio:.3g} to 1",
        sweep=sweep,
        x=convention,
        y=f"{convention}_gap",
        verdict="undecided",
        n_runs=len(runs),
        figure=f"game-gaps-{sweep}",
        effect_name="order in the rates",
    )
    if len(runs) < MIN_RATES:
        return replace(verdict, note=f"Below {MIN_RATES} rates nothing is decided.")
    order = _slope(runs, history, f"{convention}_gap")
    flow = _slope(runs, history, "flow_gap")
    if not np.isfinite(order):
        return replace(verdict, note="The runs have no finite distance at a common time.")
    fastest = runs.sort_values(_RATES[0]).iloc[-1]
    return replace(
        verdict,
        effect=order,
        verdict="holds" if order >= MIN_ORDER else "does not hold",
        remark=f"flow of the game {flow:.2f}",
        note=f"Distances from the equilibrium at the largest rates after {fastest['steps']:.0f} "
        f"turns: {fastest['distance']:.4g} played, {fastest[f'{convention}_distance']:.4g} "
        f"modified flow, {fastest['flow_distance']:.4g} flow of the game.",
    )


def _slope(runs: pd.DataFrame, history: pd.DataFrame, column: str) -> float:
    """The slope of log distance over log rate, at the last time that all runs have reached."""
    rates = runs[_RATES[0]].to_numpy(dtype=float)
    time = float((rates * runs["steps"].to_numpy(dtype=float)).min())
    gaps = []
    for run_id, rate in zip(runs["run_id"], rates, strict=True):
        line = finite_rows(history[history["run_id"] == run_id], ("step", column))
        at_time = line[np.isclose(line["step"] * rate, time)]
        gaps.append(float(at_time[column].iloc[0]) if len(at_time) else np.nan)
    if not (np.isfinite(gaps).all() and min(gaps) > 0.0):
        return float("nan")
    return float(np.polyfit(np.log(rates), np.log(gaps), 1)[0])


def _on_divergence(sweep: str, runs: pd.DataFrame) -> Iterator[Verdict]:
    """The seeds that diverged with and without their interaction drift, before a test.

    One verdict for each setting that has both arms; a seed is one pair.
    """
    if runs.empty:
        return
    runs = runs[runs["order"] == "simultaneous"]
    keys = [*_SETTINGS, "seed"]
    plain, cancelled = (
        arm.drop_duplicates(keys)[[*keys, "diverged"]]
        for arm in (runs[runs["cancel"] == "none"], _all_cancelled(runs))
    )
    pairs = plain.merge(cancelled, on=keys, suffixes=(".plain", ".cancelled"))
    verdict = Verdict(
        claim=GAN_DIVERGENCE.name,
        statement="fewer seeds diverge without interaction drift",
        sweep=sweep,
        x="diverged",
        y="diverged",
        verdict="undecided",
        n_runs=0,
        figure=f"gan-distance-{sweep}",
        effect_name="share of seeds fewer",
        test="McNemar's exact test",
    )
    if pairs.empty:
        yield replace(verdict, note="No seed has a run in both arms of one setting.")
        return
    varied = [name for name in _SETTINGS if pairs[name].nunique() > 1]
    for _, own in pairs.groupby(list(_SETTINGS)):
        at = ", ".join(f"{name} = {own[name].iloc[0]}" for name in varied)
        named = replace(verdict, x=at, statement=f"{verdict.statement}, {at}") if at else verdict
        yield _of_pairs(named, own)


def _of_pairs(verdict: Verdict, pairs: pd.DataFrame) -> Verdict:
    """The verdict with the numbers of one setting: a row of ``pairs`` is a seed."""
    plain, cancelled = (
        pairs[f"diverged.{arm}"].to_numpy(dtype=bool) for arm in ("plain", "cancelled")
    )
    only_plain = int((plain & ~cancelled).sum())
    only_cancelled = int((cancelled & ~plain).sum())
    return replace(
        verdict,
        n_runs=2 * len(pairs),
        effect=float(plain.mean() - cancelled.mean()),
        interval=paired_share_interval(only_plain, only_cancelled, len(pairs)),
        p=mcnemar_p(only_plain, only_cancelled),
        p_opposite=mcnemar_p(only_cancelled, only_plain),
        remark=f"{plain.sum()} of {len(pairs)} plain, {cancelled.sum()} cancelled",
        note=f"Diverged in one arm alone: {only_plain} plain, {only_cancelled} cancelled",
    )


def _tested(verdicts: list[Verdict]) -> Iterator[Verdict]:
    """The verdicts on divergence by their p, corrected over all of them, which the note shows."""
    for verdict in with_holm(verdicts):
        if not verdict.n_runs:
            yield verdict
            continue
        tested = f"; one-sided p {verdict.p:.3f}, {verdict.p_holm:.3f} with Holm's correction."
        yield decided(replace(verdict, note=verdict.note + tested))
