"""`geocollapse transfer`: few-shot accuracy of one model's embedding on one data set."""

from __future__ import annotations

import math
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
from geocollapse.cli.output import OutputFile, check_writable
from geocollapse.cli.resolve import (
    Request,
    collect_settings,
    features_heading,
    find_device,
    set_threads,
)

if TYPE_CHECKING:
    from torch import Tensor

    from geocollapse.cli.schemas import FewShotDict
    from geocollapse.transfer import LearningCurve
    from geocollapse.transfer.few_shot import Classifier
    from geocollapse.transfer.summary import FullDataDict


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
    also: Annotated[
        list[str] | None,
        Option(
            metavar="NAME",
            help="Also classify by nearest_mean_normalised, nearest_mean_centred, logistic_probe "
            "or knn; commas, or repeated.",
        ),
    ] = None
    full_data: Annotated[
        bool,
        Option(help="A linear probe and nearest neighbours on all labels but a fifth, to compare."),
    ] = True
    episode_values: Annotated[
        bool, Option("--episode-values", help="Put the value of each episode into the JSON.")
    ] = False
    plot: Annotated[
        Path | None,
        Option(metavar="FILE", help="Draw accuracy against --k-shot. .png, .pdf or .svg."),
    ] = None
    out: OutFile = None

    def check(self) -> None:
        """Refuse files that cannot be written, before any work."""
        from geocollapse.measurement.figure import check_figure

        check_writable(self.out, "--out")
        check_writable(self.plot, "--plot")
        if self.plot is not None:
            check_figure(self.plot, argument="--plot")

    def classifiers(self) -> list[Classifier]:
        """The default classifiers, then those asked for, each once."""
        from geocollapse.transfer.few_shot import CLASSIFIERS, DEFAULT_CLASSIFIERS

        asked = [part.strip() for text in self.also or [] for part in text.split(",")]
        for name in asked:
            if name not in CLASSIFIERS:
                raise ValueError(
                    f"--also: expected names of {', '.join(CLASSIFIERS)}, got {name!r}; do "
                    f"--also knn"
                )
        wanted = {*DEFAULT_CLASSIFIERS, *asked}
        return [name for name in CLASSIFIERS if name in wanted]


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
    notes: tuple[str, ...] = ()


def transfer(
    model: ModelArgument,
    model_options: ModelOptions,
    data_options: DataOptions,
    episodes: EpisodeOptions,
    machine: MachineOptions,
    data: DataArgument = None,
) -> Answer:
    """Few-shot accuracy of a model's embedding.

    By the nearest class mean and by a linear probe, with intervals over episodes and for other
    classes like these; beside it what the labels of all examples give. The default split is test.
    features:FILE in place of MODEL and DATA takes the features that `measure --save-features` kept.
    """
    from geocollapse.transfer import learning_curve

    episodes.check()
    k_shots = _parse_shots(episodes.k_shot or ["1,5"])
    classifiers = episodes.classifiers()
    request = Request(model, data, default_split="test")
    path = request.features_file(
        model_options, data_options, machine, used=("--device", "--threads", "--seed")
    )
    found = (
        _of_model(request, model_options, data_options, machine)
        if path is None
        else _of_file(path, machine)
    )
    curve = learning_curve(
        found.features,
        found.labels,
        k_shots=k_shots,
        classifiers=classifiers,
        n_way=episodes.n_way,
        n_query=episodes.n_query,
        n_episodes=episodes.n_episodes,
        seed=machine.seed,
        class_names=found.classes,
    )
    result = _as_json(curve, found, episodes, machine)
    return Answer(
        result,
        f"{_answered(curve)}\n{found.heading}\n\n{_shown(curve, result)}",
        out=episodes.out,
        files=_files_of(curve, episodes),
    )


def _as_json(
    curve: LearningCurve, found: _Embedded, episodes: EpisodeOptions, machine: MachineOptions
) -> FewShotDict:
    from geocollapse.runtime.provenance import provenance
    from geocollapse.transfer import summarise

    summary = summarise(
        curve,
        found.features,
        found.labels,
        full_data=episodes.full_data,
        episode_values=episodes.episode_values,
        seed=machine.seed,
    )
    return {
        "schema_version": SCHEMA_VERSION,
        **summary,
        "warnings": [*found.notes, *summary["warnings"]],
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


def _files_of(curve: LearningCurve, episodes: EpisodeOptions) -> list[OutputFile]:
    """The figure, if it was asked for."""
    from geocollapse.charts import learning_curve_chart, save_as

    if episodes.plot is None:
        return []
    chart = learning_curve_chart(curve)
    return [OutputFile("--plot", episodes.plot, lambda path: save_as(chart, path))]


def _of_model(
    request: Request,
    model_options: ModelOptions,
    data_options: DataOptions,
    machine: MachineOptions,
) -> _Embedded:
    from geocollapse.measurement.collect import collect_features

    settings = collect_settings(model_options, machine)
    inputs = request.resolve(model_options, data_options, machine)
    found = collect_features(inputs.model, inputs.source, **vars(settings))
    dataset = inputs.dataset
    return _Embedded(
        features=found.features,
        labels=found.labels,
        layer=found.layer,
        classes=dataset.classes,
        split=dataset.split,
        origin=inputs.origin,
        heading=inputs.heading(),
        notes=dataset.notes,
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


def _answered(curve: LearningCurve) -> str:
    """The answer in one line: the accuracy of the nearest mean by shots."""
    name, by_shots = next(iter(curve.accuracy.items()))
    values = [f"{found.value:.1%} with {k}" for k, found in by_shots.items()]
    examples = "example" if curve.k_shots[-1] == 1 else "examples"
    return (
        f"{name.replace('_', ' ').capitalize()}: {', '.join(values)} labelled {examples} of each "
        f"of {curve.n_way} classes"
    )


def _shown(curve: LearningCurve, result: FewShotDict) -> str:
    """A row for each classifier and number of shots, then what all labels give."""
    rows = [
        (
            name.replace("_", " "),
            k,
            f"{found.value:.2%}",
            _range(found.interval()),
            _range(found.classes_interval()),
        )
        for name, by_shots in curve.accuracy.items()
        for k, found in by_shots.items()
    ]
    rows += _predicted(result)
    these = f"these {curve.n_classes} classes"
    columns = ("classifier", "shots", "accuracy", these, "others like them")
    layer = result["layer"] or "the output"
    lines = [
        f"{layer}: {curve.n_way} classes an episode, {curve.n_episodes} episodes, 95 % intervals",
        table(columns, rows),
    ]
    if result["full_data"] is not None:
        lines.append(f"\n{_of_all_labels(result['full_data'], curve.n_classes)}")
    notes = [w for w in result["warnings"] if not w.startswith("predicted_error: ")]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _predicted(result: FewShotDict) -> list[tuple[str, int, str, str | None, str | None]]:
    """The accuracy that the geometry predicts, a row for each number of shots."""
    rows: list[tuple[str, int, str, str | None, str | None]] = []
    for k, error in result["predicted_error_intervals"].items():
        low, high = error["ci95"]
        accuracy = "-" if error["value"] is None else f"{1.0 - error['value']:.2%}"
        ends = None if low is None or high is None else _range((1.0 - high, 1.0 - low))
        rows.append(("predicted from geometry", int(k), accuracy, ends, None))
    return rows


def _of_all_labels(found: FullDataDict, n_classes: int) -> str:
    accuracies = [
        f"{name.replace('_', ' ')} {accuracy['value']:.2%} ({_range(accuracy['ci95'])})"
        for name, accuracy in found["accuracy"].items()
    ]
    return (
        f"From {found['n_train']} labelled examples, {n_classes} classes at a time, "
        f"{found['n_test']} tested:\n{', '.join(accuracies)}"
    )


def _range(ends: tuple[float | None, float | None]) -> str | None:
    """The ends of an interval of a share, cut to what a share can be; None where undefined."""
    low, high = ends
    if low is None or high is None or math.isnan(low):
        return None
    return f"{max(0.0, low):.2%} to {min(1.0, high):.2%}"


def _parse_shots(texts: list[str]) -> list[int]:
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(
            f"--k-shot: expected positive numbers, got {','.join(texts)!r}; do --k-shot 1,5"
        )
    return [int(part) for part in parts]
