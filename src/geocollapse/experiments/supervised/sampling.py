"""The sampling study of a run: sampled estimates of geometric complexity and the full value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from geocollapse.complexity import geometric_complexity
from geocollapse.data import LabelledData
from geocollapse.experiments.recipe import run_id
from geocollapse.features import FeatureMap, find_embedding
from geocollapse.jacobian import Estimator, squared_jacobian_norms
from geocollapse.modules.borrow import borrowed

if TYPE_CHECKING:
    from geocollapse.experiments.recipe import MeasuringConfig, RunConfig, SamplingConfig
    from geocollapse.experiments.results.records import SamplingStudy


@dataclass(frozen=True)
class Method:
    """One way of sampling; its name is the key of its estimates in the study."""

    name: str
    estimator: Estimator
    n_probes: int | Literal["auto"] = "auto"
    max_samples: int | None = None


def study_sampling(
    model: nn.Module, data: LabelledData, measuring: MeasuringConfig, *, seed: int
) -> dict[str, SamplingStudy]:
    """Repeated sampled estimates of source GC beside the exact full value; {} without a study.

    ``examples``: few examples, one random probe each; ``outputs``: few output coordinates of every
    example; ``probes``: few random probes of every example; ``entries``: a masked Jacobian of every
    example, with the share of its entries that is kept. The full value is exact, over the training
    examples or, where the recipe has ``max_samples``, over a class-balanced subset of that size.
    Cost: p vector-Jacobian products for each example, then those of the repeats.

    Args:
        model: the trained model.
        data: its training examples.
        measuring: the study, and the size of the population.
        seed: of the first repeat; the others follow.
    """
    if measuring.sampling is None:
        return {}
    population = _population(data, measuring.max_samples)
    batch_size = measuring.evaluation_batch_size
    seeds = range(seed, seed + measuring.sampling.repeats)
    with borrowed(model):
        f, n_entries = _embedding(model, population)
        full = geometric_complexity(f, population, estimator="exact", batch_size=batch_size).value
        return {
            method.name: _repeated(f, population, method, seeds, full=full, batch_size=batch_size)
            for method in _methods(measuring.sampling, n_entries)
        }


def check_sampling(model: nn.Module, data: LabelledData, measuring: MeasuringConfig) -> None:
    """Refuse a study that the data or the network cannot have; looks at two examples.

    Raises:
        ValueError: fewer examples than two of each class, more outputs than there are.
    """
    if measuring.sampling is None:
        return
    population = _population(data, measuring.max_samples)
    with borrowed(model):
        f, n_entries = _embedding(model, population)
        for method in _methods(measuring.sampling, n_entries):
            try:
                if method.n_probes == "auto":
                    geometric_complexity(_first, population, max_samples=method.max_samples)
                else:
                    squared_jacobian_norms(
                        f,
                        population.inputs[:2],
                        estimator=method.estimator,
                        n_probes=method.n_probes,
                    )
            except ValueError as error:
                raise ValueError(f"measuring.sampling, {method.name}: {error}") from error


def study_seed(config: RunConfig) -> int:
    """The first seed of a run's study: 48 bits of its name.

    Two runs share neither examples nor probes, else their errors would be common ones.
    """
    return int(run_id(config), 16)


def _embedding(model: nn.Module, data: LabelledData) -> tuple[FeatureMap, int]:
    """The map to the embedding, and the number of entries of its Jacobian."""
    first = data.inputs[:1]
    f = FeatureMap(model, [find_embedding(model, first).layer])
    return f, f(first).shape[1] * first.numel()


def _methods(study: SamplingConfig, n_entries: int) -> Iterator[Method]:
    """The methods of a study; ``n_entries`` is the size of one Jacobian."""
    for n in study.n_samples:
        yield Method(f"examples {n}", "rademacher", max_samples=n)
    for n in study.n_outputs:
        yield Method(f"outputs {n}", "outputs", n)
    for n in study.n_probes:
        yield Method(f"probes {n}", "rademacher", n)
    for share in study.kept_shares:
        yield Method(f"entries {share:g}", "masked", max(2, round(share * n_entries)))


def _repeated(
    f: FeatureMap,
    population: LabelledData,
    method: Method,
    seeds: range,
    *,
    full: float,
    batch_size: int,
) -> SamplingStudy:
    estimates = [
        geometric_complexity(
            f,
            population,
            estimator=method.estimator,
            n_probes=method.n_probes,
            max_samples=method.max_samples,
            seed=seed,
            batch_size=batch_size,
        )
        for seed in seeds
    ]
    if any(estimate.interrupted for estimate in estimates):  # a Ctrl-C: no half studies
        raise KeyboardInterrupt
    return {
        "n_samples": estimates[0].n_samples,
        "n_probes": estimates[0].n_probes,
        "full": full,
        "estimates": [
            {"value": estimate.value, "ci95": list(estimate.interval())} for estimate in estimates
        ],
    }


def _first(x: Tensor) -> Tensor:
    """A map of no content, which costs nothing."""
    return x.flatten(1)[:, :1]


def _population(data: LabelledData, max_samples: int | None) -> LabelledData:
    if max_samples is None or max_samples >= len(data):
        return data
    return data.select(subset=max_samples)
