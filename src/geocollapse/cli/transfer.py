"""`geocollapse transfer`: few-shot accuracy of one model's embedding on one data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from geocollapse.cli.answer import SCHEMA_VERSION, Answer, table
from geocollapse.cli.options import (
    DataArgument,
    DataOptions,
    MachineOptions,
    ModelArgument,
    ModelOptions,
    OutFile,
)
from geocollapse.cli.output import check_writable
from geocollapse.cli.resolve import Request, features_heading, find_device, set_threads

if TYPE_CHECKING:
    from torch import Tensor

    from geocollapse.cli.schemas import FewShotDict
    from geocollapse.estimate import IntervalDict


@dataclass(frozen=True)
class EpisodeOptions:
    """The size and number of few-shot episodes."""

    n_way: Annotated[int, Option(metavar="N", help="Classes of an episode.")] = 5
    k_shot: Annotated[
        list[str] | None,
        Option(
            metavar="1,5", help="Labelled examples a class; commas, or repeated.  [default: 1,5]"
        ),
    ] = None
    n_query: Annotated[int, Option(metavar="N", help="Examples a class to classify.")] = 15
    n_episodes: Annotated[
        int, Option(metavar="N", help="Episodes; more give a shorter interval.")
    ] = 600
    out: OutFile = None


@dataclass(frozen=True)
class _Embedded:
    """Features and labels of a data set, and their origin."""

    features: Tensor
    labels: Tensor
    layer: str
    classes: list[str]
    split: str | None
    origin: Mapping[str, object]
    heading: str


def transfer(
    model: ModelArgument,
    model_options: ModelOptions,
    data_options: DataOptions,
    episodes: EpisodeOptions,
    machine: MachineOptions,
    data: DataArgument = None,
) -> Answer:
    """Few-shot accuracy of a model's embedding.

    By the nearest class mean and by a linear probe, with intervals over episodes. The default split
    is test. features:FILE in place of MODEL and DATA takes the features that `measure
    --save-features` kept.
    """
    from geocollapse.runtime.provenance import provenance
    from geocollapse.transfer import transfer as few_shot

    check_writable(episodes.out, "--out")
    k_shots = _parse_shots(episodes.k_shot or ["1,5"])
    request = Request(model, data, default_split="test")
    path = request.features_file(
        model_options, data_options, machine, used=("--device", "--threads", "--seed")
    )
    found = (
        _of_model(request, model_options, data_options, machine)
        if path is None
        else _of_file(path, machine)
    )
    accuracy = few_shot(
        found.features,
        found.labels,
        n_way=episodes.n_way,
        k_shots=k_shots,
        n_query=episodes.n_query,
        n_episodes=episodes.n_episodes,
        seed=machine.seed,
    )
    result: FewShotDict = {
        "schema_version": SCHEMA_VERSION,
        **accuracy,
        "classes": found.classes,
        "layer": found.layer,
        "n_features": found.features.shape[1],
        "n_samples": len(found.features),
        "split": found.split,
        "provenance": {
            **found.origin,
            **provenance(seed=machine.seed, device=found.features.device),
        },
    }
    return Answer(result, f"{found.heading}\n\n{_shown(result)}", out=episodes.out)


def _of_model(
    request: Request,
    model_options: ModelOptions,
    data_options: DataOptions,
    machine: MachineOptions,
) -> _Embedded:
    from geocollapse.measurement.collect import collect_features

    names = model_options.layer or []
    if len(names) > 1:
        raise ValueError(
            f"--layer: expected one layer, got {', '.join(names)}; do one call a layer"
        )
    inputs = request.resolve(model_options, data_options, machine)
    found = collect_features(
        inputs.model,
        inputs.source,
        layer=names[0] if names else None,
        classifier=model_options.classifier,
        pool=model_options.pool,
        input_layer=model_options.input_layer,
        autocast=machine.autocast_dtype(),
        batch_size=machine.batch_size,
    )
    dataset = inputs.dataset
    return _Embedded(
        features=found.features,
        labels=found.labels,
        layer=found.layer,
        classes=dataset.classes,
        split=dataset.split,
        origin=inputs.origin,
        heading=inputs.heading(),
    )


def _of_file(path: Path, machine: MachineOptions) -> _Embedded:
    from geocollapse.store import read_features

    set_threads(machine.threads)
    kept = read_features(path, device=find_device(machine.device))
    context = kept.context
    names = context.class_names or [str(int(label)) for label in kept.labels.unique()]
    return _Embedded(
        features=kept.features,
        labels=kept.labels,
        layer=kept.layer,
        classes=list(names),
        split=context.split,
        origin=context.provenance,
        heading=features_heading(path, kept),
    )


def _shown(result: FewShotDict) -> str:
    """Accuracies with their intervals: a row a classifier, a column a number of shots."""
    shots = list(next(iter(result["accuracy"].values())))
    rows = [
        (name.replace("_", " "), *(_percent(estimates[k]) for k in shots))
        for name, estimates in result["accuracy"].items()
    ]
    predicted = result["predicted_error_intervals"]
    if predicted:
        accuracies = (_predicted_percent(predicted[k]) for k in shots)
        rows.append(("nearest mean, predicted from geometry", *accuracies))
    layer = result["layer"] or "the output"
    what = f"{layer}: {result['n_way']} classes an episode, {result['n_episodes']} episodes"
    notes = [f"note: {warning}" for warning in result["warnings"]]
    return "\n".join(
        [what, table(("classifier", *(f"{k}-shot accuracy" for k in shots)), rows), *notes]
    )


def _percent(estimate: IntervalDict) -> str:
    low, high = estimate["ci95"]
    return f"{estimate['value']:.2%} ({low:.2%} to {high:.2%})"


def _predicted_percent(error: IntervalDict) -> str:
    """A predicted error as an accuracy; without an interval where it has none."""
    low, high = error["ci95"]
    accuracy = f"{1.0 - (error['value'] or 0.0):.2%}"
    if low is None or high is None:
        return accuracy
    return f"{accuracy} ({1.0 - high:.2%} to {1.0 - low:.2%})"


def _parse_shots(texts: list[str]) -> list[int]:
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(
            f"--k-shot: expected positive numbers, got {','.join(texts)!r}; do --k-shot 1,5"
        )
    return [int(part) for part in parts]
