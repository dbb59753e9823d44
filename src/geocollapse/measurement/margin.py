"""Geometric complexity of a classifier's logits over its squared margin, from one pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from geocollapse.bounds.margin import check_share, margin_normalised, margins
from geocollapse.complexity.means import dataset_complexity
from geocollapse.complexity.setup import Data, Model, Request, Setup, set_up
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.estimate import Estimate, Population
from geocollapse.jacobian import Estimator
from geocollapse.measurement.classifier import match_outputs
from geocollapse.measurement.context import class_counts
from geocollapse.measurement.one_pass import read_once
from geocollapse.measurement.reading import Reading
from geocollapse.runtime.processes import failing_together


@dataclass(frozen=True)
class MarginReading:
    """The margins of a classifier on a data set, with geometric complexity of its logits.

    Attributes:
        margins: (n,) of all examples.
        complexity: geometric complexity of the logits.
        normalised: the same over the squared margin at the quantile.
    """

    margins: Tensor
    complexity: Estimate
    normalised: Estimate


@failing_together()
def margin_complexity(
    model: Model,
    data: Data,
    gamma: float = 0.1,
    *,
    estimator: Estimator = "rademacher",
    n_probes: int | Literal["auto"] = "auto",
    rtol: float | None = None,
    max_samples: int | None = None,
    population: Population = "dataset",
    seed: int = 0,
    batch_size: int | None = None,
    memory_limit: int | None = None,
    autocast: torch.dtype | None = None,
) -> Estimate:
    """Geometric complexity of a classifier's logits over its squared training margin.

        GC_gamma = GC(f, D)/gamma^2,  GC = 1/n sum_x ||J_f(x)||_F^2 of the logits f
        gamma: the quantile of the margins f_y - max_{j != y} f_j over D at the level ``gamma``

    Range [0, inf). Invariant to scaling the logits, to a constant added to all logits of an
    example, and to rotations of the inputs; degree -2 in the input scale. Lower promises a smaller
    gap between training and test error, if the margins are those of the training data. The model
    runs in evaluation mode. Cost: one forward pass, and one vector-Jacobian product per probed
    example.

    Of the ``dataset``, the interval has the error of GC alone: gamma is the quantile of all its
    margins, whatever ``max_samples``. Of the ``distribution``, it also has the error of gamma and
    the covariance of both. Neither speaks about another training run.

    Source: Munn, Dherin, Gonzalvo (2024), arXiv 2405.18590; error: ``bounds.margin_normalised``.

    Args:
        model: a classifier whose output is (n, C) logits, one for each class.
        data: the training data, as ``geocollapse.measure`` takes it.
        gamma: level of the quantile that is the margin gamma, between 0 and 1; not a margin.
        estimator: of ||J||_F^2, see ``squared_jacobian_norms``.
        n_probes: probes for each example.
        rtol: probe until the relative half-width of the interval of GC is at most this.
        max_samples: probe at most this many examples; the margins are those of all.
        population: the ``dataset`` at hand or the ``distribution`` behind it.
        seed: of the probes and of the sample.
        batch_size: examples that go through the model together.
        memory_limit: bytes that the graph of a batch may take.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to run the model under autocast.

    Returns:
        An Estimate on the log scale. NaN, with the reason in its ``warnings``, where gamma is not
        positive: the model is wrong on at least that share of the data.

    Raises:
        ValueError: ``gamma`` outside (0, 1); fewer than two outputs, or labels without an output;
            see ``geometric_complexity``.
        TypeError, RuntimeError: see ``geometric_complexity``.

    Examples:
        >>> x = torch.randn(300, 4)
        >>> model = torch.nn.Linear(4, 3)
        >>> y = model(x).argmax(dim=1)  # it is right everywhere
        >>> found = margin_complexity(model, (x, y), estimator="exact")
        >>> _ = model.weight.data.mul_(2.0), model.bias.data.mul_(2.0)
        >>> twice = margin_complexity(model, (x, y), estimator="exact")
        >>> bool(abs(found.value / twice.value - 1.0) < 1e-5)
        True
    """
    check_share(gamma, "gamma")
    request = Request(
        estimator=estimator,
        n_probes=n_probes,
        rule=StoppingRule(rtol, max_samples=max_samples),
        population=population,
        seed=seed,
        batch_size=batch_size,
        memory_limit=memory_limit,
        autocast=autocast,
    )
    return measure_margins(model, data, gamma, request).normalised


@failing_together()
def measure_margins(
    model: Model, data: Data, share: float = 0.1, request: Request | None = None
) -> MarginReading:
    """The margins of all examples and both complexities behind ``margin_complexity``, in one pass.

    Args:
        model: see ``margin_complexity``.
        data: see ``margin_complexity``.
        share: level of the quantile, between 0 and 1.
        request: how to measure; its layer is always the output. None for the defaults.

    Raises:
        ValueError: a share outside (0, 1); see ``margin_complexity``.

    Examples:
        >>> x = torch.randn(200, 4)
        >>> found = measure_margins(torch.nn.Linear(4, 3), (x, torch.arange(200) % 3))
        >>> found.margins.shape, found.complexity.layer
        (torch.Size([200]), '')
    """
    check_share(share)
    of_logits = replace(request or Request(), layer="")
    with set_up(model, data, of_logits) as setup:
        return _read_margins(setup, share)


def _read_margins(setup: Setup, share: float) -> MarginReading:
    match_outputs(setup)
    reading = read_once(setup)
    logits = reading.output if setup.feature_map.class_outputs is not None else None
    found = margins(reading.layers[0].features if logits is None else logits, reading.labels)
    rows = torch.searchsorted(reading.indices, reading.probed)
    complexity = _complexity(setup, reading, rows)
    normalised = margin_normalised(complexity, found, share, rows=rows)
    return MarginReading(found.cpu(), complexity, normalised)


def _complexity(setup: Setup, reading: Reading, rows: Tensor) -> Estimate:
    """Geometric complexity of the logits from the rows that were probed."""
    examples = setup.examples
    n_population = len(reading.labels) if examples.size is None else examples.size
    is_stratified = examples.labels_at(reading.indices) is not None
    found = dataset_complexity(
        reading.layers[0].norms,
        n_population,
        reading.labels[rows] if is_stratified else None,
        class_counts(examples, reading, n_population),
        replace(reading.settings, layer=setup.layers[0]),
    )
    marked = setup.request.rule.marked(found, n_population, reading.ending)
    return replace(marked, warnings=(*setup.notes, *marked.warnings))
