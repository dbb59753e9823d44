"""Geometric complexity of a map over a data set: the mean squared Frobenius norm of its Jacobian,
with its error.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from geocollapse.batches import MapExamples, as_examples, check_shared
from geocollapse.complexity.means import complexity_so_far, estimate_settings
from geocollapse.complexity.probing import Probing
from geocollapse.complexity.schedule import bounded_by_memory, fitted_plan, schedule_probes
from geocollapse.complexity.stopping import StoppingRule, first_interrupt_asks
from geocollapse.estimate import Estimate, Population
from geocollapse.features import CallableMap, check_autocast
from geocollapse.features.borrow import borrowed
from geocollapse.features.independence import check_independence
from geocollapse.features.mixing import check_mixing_layers
from geocollapse.features.wrapped import without_data_parallel
from geocollapse.inputs import Map, move
from geocollapse.jacobian import Estimator, ProbePlan, check_estimator
from geocollapse.runtime.processes import failing_together, share


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
