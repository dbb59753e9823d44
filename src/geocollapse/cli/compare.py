"""`geocollapse compare`: two models on the same examples, measure by measure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from geocollapse.cli.answer import Answer, Display
from geocollapse.cli.options import DataArgument, DataOptions, MachineOptions, ModelOptions, OutFile
from geocollapse.cli.output import check_writable
from geocollapse.cli.rank import labelled
from geocollapse.cli.resolve import FEATURES, Request

if TYPE_CHECKING:
    from geocollapse.measurement import Measurement


@dataclass(frozen=True)
class CompareOptions:
    """The layer of both models, and the precision of the comparison."""

    layer: Annotated[
        str | None,
        Option(metavar="NAME", help="NAME or NAME:in, of both; default the classifier's."),
    ] = None
    tokenizer: Annotated[
        str | None, Option(metavar="ID|DIR", help="Of texts; default each model's own.")
    ] = None
    k_shot: Annotated[
        int, Option(metavar="N", help="Labelled examples a class of few-shot accuracy.")
    ] = 5
    n_way: Annotated[
        int | None, Option(metavar="N", help="Classes of an episode; default 5, or all if fewer.")
    ] = None
    max_samples: Annotated[
        int | None, Option(metavar="N", help="Probe at most N examples; the rest uses all.")
    ] = None
    out: OutFile = None


def compare(
    first: Annotated[str, Argument(metavar="MODEL", help="As of `measure`, also LABEL=MODEL.")],
    second: Annotated[str, Argument(metavar="MODEL", help="Another one.")],
    options: CompareOptions,
    data_options: DataOptions,
    machine: MachineOptions,
    display: Display,
    data: DataArgument = None,
) -> Answer:
    """Compare two models on the same examples.

    A row a measure, with the paired difference and its interval for examples like these. Measures
    that are free of scales decide; geometric complexity itself is shown. The default split is test.
    Two run folders without DATA are compared by what they recorded of their own data, if that is
    the same.
    """
    from geocollapse.ranking.accuracy import EpisodeSettings
    from geocollapse.ranking.order import RankSettings
    from geocollapse.ranking.two_models import compare_layers

    check_writable(options.out, "--out")
    labels, specs = _named(first, second)
    if data is None and all(Path(spec).is_dir() for spec in specs):
        from geocollapse.reports.two_runs import compare_runs

        found = compare_runs(*specs, labels)
    else:
        a, b = (
            _measured(spec, data, options, data_options, machine, display)._only("compare")
            for spec in specs
        )
        episodes = EpisodeSettings(k_shot=options.k_shot, seed=machine.seed)
        found = compare_layers(a, b, labels, RankSettings(episodes, n_way=options.n_way))
    result = found.to_dict()
    return Answer(result, str(found), rows=result["measures"], out=options.out)


def _named(first: str, second: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """The labels and the names of both models; the same model twice is told apart."""
    (a, one), (b, other) = labelled(first), labelled(second)
    return ((a, b) if a != b else (f"{a} (1)", f"{b} (2)")), (one, other)


def _measured(
    spec: str,
    data: str | None,
    options: CompareOptions,
    data_options: DataOptions,
    machine: MachineOptions,
    display: Display,
) -> Measurement:
    from geocollapse.measurement import measure, measure_features

    if spec.startswith(FEATURES):
        return measure_features(Path(spec.removeprefix(FEATURES)))
    models = ModelOptions(tokenizer=options.tokenizer)
    inputs = Request(spec, data, default_split="test").resolve(models, data_options, machine)
    return measure(
        inputs.model,
        inputs.source,
        layer=options.layer,
        max_samples=options.max_samples,
        autocast=machine.autocast_dtype(),
        batch_size=machine.batch_size,
        seed=machine.seed,
        progress=not display.quiet,
    )
