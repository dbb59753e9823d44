"""Geometric complexity of a map over a data set: the mean squared Frobenius norm of its Jacobian,
with its error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geocollapse.batches import MapExamples, StreamExamples, as_examples, check_shared
from geocollapse.estimate import LARGEST_SHARE_LIMIT, Estimate, Population, total_variance
from geocollapse.features import CallableMap, check_autocast
from geocollapse.features.borrow import borrowed
from geocollapse.features.independence import check_independence
from geocollapse.features.mixing import check_mixing_layers
from geocollapse.features.wrapped import without_data_parallel
from geocollapse.inputs import Map, move
from geocollapse.jacobian import Estimator, ProbePlan, SquaredNorms, check_estimator
from geocollapse.jacobian.probes import random_order
from geocollapse.runtime.processes import failing_together, share
from geocollapse.sampling import (
    SECOND_PROBES,
    SECOND_PROBES_PER_CLASS,
    ProbeSchedule,
    Probing,
    Readings,
    bounded_by_memory,
    fitted_plan,
    known_classes,
    schedule_probes,
)
from geocollapse.stopping import StoppingRule, first_interrupt_asks, looks

_WARN_SAMPLES = 200  # largest_share says nothing about fewer examples


@failing_together()
def geometric_complexity(
    f: Map,
    inputs: Any,
    *,
    estimator: Estimator = "rademacher",
    n_probes: int | Literal["auto"] = "auto",
    rtol: float | None = None,
    atol: float | None = None,
    max_samples: int | None = None,
    max_seconds: float | None = None,
    population: Population = "dataset",
    seed: int = 0,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    autocast: torch.dtype | None = None,
) -> Estimate:
    """Geometric complexity of f's own output over a data set.

    GC(f, D) = 1/n sum_x ||J_f(x)||_F^2,  J_f(x) = df/dx in R^{p x d}

    Range [0, inf). Degree 2 in f, -2 in the input scale; invariant under rotations of either. Unit:
    (output unit / input unit)^2: compare models at the same preprocessing only. Cost: one forward
    pass and one vector-Jacobian product for each example and probe; memory of one batch's graph.
    The same seed gives the same value, to rounding, for any batch size, order and number of
    processes: with a process group each process measures its share of the batches, and all return
    the same. A first Ctrl-C ends with the estimate so far, marked ``interrupted``.

    Source: Dherin, Munn, Rosca, Barrett (2022), definition 1; standard error and interval:
    definitions 1.

    Args:
        f: a map (n, ...) -> (n, ...) that treats examples independently, in evaluation mode.
        inputs: (n, ...) floating, or a data set, a loader, or a pair (inputs, labels); known labels
            stratify a sample.
        estimator: of ||J||_F^2, see ``squared_jacobian_norms``.
        n_probes: probes for each example; ``auto``: one, and a second one on a random 200 examples
            to learn the error; with ``rtol`` or ``atol`` more of them where that is cheaper than
            more examples, or all examples are used. Costs are measured: a number gives the same
            probes on every machine.
        rtol: stop when the relative half-width of the 95 % interval is at most this; examples are
            read in a random order, looked at after max(512, 2 C) and each time 1.25 times more.
        atol: stop, at the same looks, when the standard error is at most this.
        max_samples: measure at most this many examples, drawn at random.
        max_seconds: start no batch after this time.
        population: what the standard error speaks about: the ``dataset`` at hand or the
            ``distribution`` behind it.
        seed: of the probes and of the sample.
        batch_size: examples that go through f together.
        memory_limit: bytes that the graph of a batch may take; the batches are made small enough.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to run f under ``torch.autocast``; squares
            are summed in float64 either way.

    Returns:
        An Estimate on the log scale; ``values`` holds ||J||_F^2 of each example measured, in the
        order of the data.

    Raises:
        ValueError, TypeError: see ``squared_jacobian_norms``; also an empty data set, contradictory
            stopping arguments, with several processes a stream, ``max_seconds``, or other data or
            weights in one of them.
        RuntimeError: f mixes the examples of a batch (batch normalisation in training mode, a
            router with capacity), or draws at random (dropout); names the module. Seen from two
            examples, three times.

    Examples:
        >>> f = torch.nn.Linear(3, 2, bias=False)
        >>> gc = geometric_complexity(f, torch.randn(500, 3), estimator="exact")
        >>> bool(abs(gc.value - f.weight.detach().double().square().sum()) < 1e-6)
        True
    """
    check_estimator(estimator, n_probes)
    rule = StoppingRule(rtol, atol, max_samples, max_seconds)
    rule.check_shared()
    check_autocast(autocast)
    f = without_data_parallel(f)
    module = f if isinstance(f, nn.Module) else None
    check_mixing_layers(module)
    plan, enter = ProbePlan(estimator, seed), CallableMap(f, autocast).enter
    with borrowed(module, evaluation=False), first_interrupt_asks() as interrupted:
        examples = as_examples(inputs, batch_size=batch_size)
        if memory_limit is not None:
            examples = bounded_by_memory(examples, enter, move(examples.peek(), f), memory_limit)
        schedule = schedule_probes(
            examples, rule, estimator=estimator, n_probes=n_probes, seed=seed
        )
        pair = move(examples.peek(2), f)
        check_independence(enter, pair, module, dtype=autocast)
        plan = fitted_plan(plan, enter, examples, f)
        asked = {
            **vars(rule),
            "estimator": estimator,
            "n_probes": n_probes,
            "seed": seed,
            "population": population,
        }
        check_shared(examples, module, enter, pair, {**asked, "autocast": autocast}, dtype=autocast)
        settings = estimate_settings(plan, schedule, rule, population)
        probing = Probing(
            schedule,
            rule,
            plan,
            lambda: [complexity_so_far(probing.readings[0], examples, **settings)],
        )
        for batch in examples.batches(*schedule.probed, share=share()):
            if (interrupted() and probing.interrupt()) or not probing.wants(batch):
                break
            probing.probe(enter, move(batch.inputs, f), batch)
        probing.finish()
    estimate = complexity_so_far(probing.readings[0], examples, **settings)
    return rule.marked(
        estimate, len(examples) if isinstance(examples, MapExamples) else None, probing.ending
    )


def estimate_settings(
    plan: ProbePlan, schedule: ProbeSchedule, rule: StoppingRule, population: Population = "dataset"
) -> dict[str, Any]:
    """What an Estimate records of how it was made."""
    return {
        "estimator": plan.estimator,
        "n_probes": schedule.n_counted,
        "population": population,
        "sequential": rule.is_sequential,
    }


def complexity_so_far(
    readings: Readings, examples: MapExamples | StreamExamples, **settings: Any
) -> Estimate:
    """Geometric complexity of the data set from the examples read so far."""
    norms, indices = readings.gathered()
    labels, counts = known_classes(examples, indices)
    n_population = len(examples) if isinstance(examples, MapExamples) else len(indices)
    estimate = dataset_complexity(norms, n_population, labels, counts, **settings)
    return replace(estimate, indices=indices)


def samples_needed(norms: SquaredNorms, rtol: float, seed: int) -> int:
    """Examples that ``rtol`` would have probed, from the norms of a whole data set in its order."""
    n, rule = len(norms), StoppingRule(rtol)
    order = random_order(seed, torch.arange(n))
    return next((k for k in looks(n) if rule.is_met(mean_norm(norms[order[:k]], n))), n)


def dataset_complexity(
    norms: SquaredNorms,
    n_population: float,
    labels: Tensor | None,
    counts: Mapping[int, float],
    **settings: Any,
) -> Estimate:
    """Geometric complexity of a data set from a sample: by class where ``labels`` are given, else
    the plain mean.

    A sample that is the whole data set says the same either way. Classes with fewer than two
    examples in the sample tell no variance: they make one stratum.
    """
    if labels is None or len(norms) == n_population:
        return mean_norm(norms, n_population, **settings)
    classes = norms_by_class(norms, labels, counts, **settings)
    thin = [label for label, estimate in classes.items() if estimate.n_samples < 2]
    if thin:
        by_size = sorted(set(classes) - set(thin), key=lambda label: classes[label].n_samples)
        while by_size and sum(classes[label].n_samples for label in thin) < 2:
            thin.append(by_size.pop(0))
        rest = torch.isin(labels, torch.tensor(thin))
        n_rest = sum(counts[label] for label in thin)
        kept = [classes[label] for label in classes if label not in set(thin)]
        sizes = [counts[label] for label in classes if label not in set(thin)]
        return stratified_mean(
            [*kept, mean_norm(norms[rest], n_rest, **settings)], [*sizes, n_rest], norms.values
        )
    return stratified_mean(
        list(classes.values()), [counts[label] for label in classes], norms.values
    )


def norms_by_class(
    norms: SquaredNorms, labels: Tensor, class_counts: Mapping[int, float], **settings: Any
) -> dict[int, Estimate]:
    """Geometric complexity of each class, GC(f, Q_c): the mean over the inputs of class c."""
    present, sizes = labels.unique(return_counts=True)
    order = labels.argsort(stable=True)
    members = dict(zip(present.tolist(), order.split(sizes.tolist()), strict=True))
    return {
        label: mean_norm(
            norms[members.get(label, order[:0])],
            count,
            min_known=SECOND_PROBES_PER_CLASS,
            **settings,
        )
        for label, count in class_counts.items()
    }


def mean_norm(
    norms: SquaredNorms,
    n_population: float,
    *,
    estimator: Estimator = "exact",
    n_probes: int = 1,
    population: Population = "dataset",
    sequential: bool = False,
    min_known: int = SECOND_PROBES,
) -> Estimate:
    """Mean of squared Jacobian norms of n_s examples drawn at random from n, with its standard
    error.

    SE^2 = s^2/n_s (1 - n_s/n) + w/(r n_s) n_s/n, s^2 the variance of the y_i, w/r the mean variance
    of one y_i given its example, from the examples with a second probe
    (``SquaredNorms.filled_variances``). Where it cannot be estimated, or for the distribution
    behind the data: SE^2 = s^2/n_s.

    Source: definitions 1 (derived there): only the between part carries the finite population
    factor.
    """
    values, n = norms.values, len(norms.values)
    if n == 0:
        return Estimate(
            math.nan,
            math.nan,
            0,
            n_probes,
            population,
            estimator,
            warnings=("no example was sampled",),
        )
    between = float(values.var()) if n > 1 else math.nan
    known = ~norms.variances.isnan()
    is_known = bool(known.all()) or int((known & (norms.n_probes == 1)).sum()) >= min_known
    if population == "distribution" or not is_known:
        variance = between / n
    else:
        share = n / n_population
        within = float(norms.filled_variances().mean())
        variance = (between / n * (1.0 - share) if share < 1.0 else 0.0) + within / n * share
    return _estimate(
        values,
        float(values.mean()),
        math.sqrt(variance),
        dof=max(n - 1, 1),
        estimator=estimator,
        n_probes=n_probes,
        population=population,
        sequential=sequential,
    )


def stratified_mean(
    classes: Sequence[Estimate], counts: Sequence[float], values: Tensor
) -> Estimate:
    """Mean over a data set from the means of its classes.

    GC = sum_c (N_c/n) G_c,  SE^2 = sum_c (N_c/n)^2 SE_c^2, with Satterthwaite degrees of freedom.

    Source: definitions 1.
    """
    weights = [count / sum(counts) for count in counts]
    value = math.fsum(w * c.value for w, c in zip(weights, classes, strict=True))
    variances = [(w * c.stderr) ** 2 for w, c in zip(weights, classes, strict=True)]
    stderr, dof = total_variance(variances, [c.dof for c in classes])
    first = classes[0]
    return _estimate(
        values,
        value,
        stderr,
        dof=dof,
        estimator=first.estimator,
        n_probes=first.n_probes,
        population=first.population,
        sequential=first.sequential,
    )


def _estimate(values: Tensor, value: float, stderr: float, **settings: Any) -> Estimate:
    total = float(values.sum())
    largest = float(values.max()) / total if total > 0.0 else None
    notes = []
    if value == 0.0:
        notes.append(
            "geometric complexity is 0: the features have no derivative in the inputs but 0"
        )
    if largest is not None and largest > LARGEST_SHARE_LIMIT and len(values) >= _WARN_SAMPLES:
        notes.append(
            f"one example carries {largest:.1%} of geometric complexity: the interval may be too "
            f"short"
        )
    return Estimate(
        value,
        stderr,
        n_samples=len(values),
        largest_share=largest,
        values=values,
        warnings=tuple(notes),
        **settings,
    )
