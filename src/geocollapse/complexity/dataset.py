"""``geometric_complexity`` of a model or callable over a data set."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from geocollapse.complexity.probing import Probing
from geocollapse.complexity.setup import Data, Model, Request, set_up
from geocollapse.complexity.stopping import StoppingRule, first_interrupt_asks
from geocollapse.estimate import Estimate, Population
from geocollapse.features import Pool
from geocollapse.inputs import move
from geocollapse.jacobian import Estimator
from geocollapse.runtime.processes import failing_together, share


@failing_together()
def geometric_complexity(
    f: Model,
    inputs: Data,
    *,
    layer: str | None = None,
    pool: Pool | None = None,
    input_layer: str | None = None,
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
    """Geometric complexity over a data set: the mean squared Frobenius norm of the Jacobian.

        GC(f, D) = 1/n sum_x ||J_f(x)||_F^2,  J_f(x) = df/dx in R^{p x d}

    For a Module, f maps its input to its embedding, the default layer of ``measure`` and of the
    penalty too; ``layer=""`` is its output. A callable is its own output.

    Range [0, inf). Degree 2 in f, -2 in the input scale; invariant under rotations of either. Unit:
    (output unit / input unit)^2, so compare models at the same preprocessing only. Cost: one
    forward pass, and one vector-Jacobian product per example and probe; memory of one batch's
    graph. The same seed gives the same value, to rounding, for any batch size, order and number of
    processes. With a process group, each process measures its share of the batches and all return
    the same estimate. A first Ctrl-C ends with the estimate so far, marked ``interrupted``.

    Source: Dherin, Munn, Rosca, Barrett (2022), definition 1; standard error and interval:
    definitions 1.

    Args:
        f: a module in evaluation mode, or a callable (n, ...) -> (n, ...), that treats examples
            independently.
        inputs: (n, ...) floating, or a data set, a loader, or a pair (inputs, labels); a sample is
            stratified by class if labels are known.
        layer: ``NAME``, ``NAME:in``, ``""`` for the output, None for the input of the classifier.
        pool: ``mean``, ``cls`` or ``last`` of a layer's positions, None to flatten them.
        input_layer: the layer that embeds integer inputs; Jacobians are taken with respect to its
            output.
        estimator: of ||J||_F^2, see ``squared_jacobian_norms``.
        n_probes: probes for each example. ``auto``: one, and a second one on a random 200 examples
            to learn the error; with ``rtol`` or ``atol`` it rises where probes are cheaper than
            examples, or no examples are left. As ``auto`` measures these costs, only a number
            gives the same probes on every machine.
        rtol: stop when the relative half-width of the 95 % interval is at most this. Examples are
            read in a random order; looks come after max(512, 2 C) examples, then after each
            further quarter.
        atol: stop, at the same looks, when the standard error is at most this.
        max_samples: measure at most this many examples, drawn at random.
        max_seconds: start no batch after this time.
        population: the population that the standard error speaks about: the ``dataset`` at hand or
            the ``distribution`` behind it.
        seed: of the probes and of the sample.
        batch_size: examples that go through f together.
        memory_limit: bytes that the graph of a batch may take; batches are made small enough.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to run f under ``torch.autocast``; squares
            are summed in float64 either way.

    Returns:
        An Estimate on the log scale that names its ``layer``; ``values`` holds ||J||_F^2 of each
        measured example, in the order of the data.

    Raises:
        ValueError, TypeError: see ``squared_jacobian_norms``; also an unknown layer, an ambiguous
            embedding, an empty data set, contradictory stopping arguments; with several processes,
            a stream, ``max_seconds``, or data or weights that differ between them.
        RuntimeError: f mixes the examples of a batch (batch normalisation in training mode, a
            router with capacity) or draws at random (dropout); names the module. Checked with
            three forward passes of two examples.

    Examples:
        >>> f = torch.nn.Linear(3, 2, bias=False)
        >>> gc = geometric_complexity(f, torch.randn(500, 3), layer="", estimator="exact")
        >>> bool(abs(gc.value - f.weight.detach().double().square().sum()) < 1e-6)
        True
    """
    request = Request(
        layer=layer,
        pool=pool,
        input_layer=input_layer,
        estimator=estimator,
        n_probes=n_probes,
        rule=StoppingRule(rtol, atol, max_samples, max_seconds),
        population=population,
        seed=seed,
        batch_size=batch_size,
        memory_limit=memory_limit,
        autocast=autocast,
        evaluation=False,
    )
    with set_up(f, inputs, request) as setup, first_interrupt_asks() as interrupted:
        probing = Probing(setup)
        for batch in setup.examples.batches(*probing.schedule.probed, share=share()):
            if (interrupted() and probing.interrupt()) or not probing.wants(batch):
                break
            probing.probe(move(batch.inputs, setup.model), batch)
        probing.finish()
    found = probing.final_estimates()[0]
    return replace(found, warnings=(*setup.notes, *found.warnings))
