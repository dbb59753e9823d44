"""`geocollapse measure`: every measure of one model on one data set, or of a features file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from geocollapse.cli.answer import SCHEMA_VERSION, Answer, Display
from geocollapse.cli.launch import first_here_first
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
    features_heading,
    find_device,
    parse_bytes,
    set_threads,
)

if TYPE_CHECKING:
    from geocollapse.measurement import Measurement


@dataclass(frozen=True)
class EstimateOptions:
    """The estimator of geometric complexity, and its precision."""

    estimator: Annotated[
        Literal[
            "exact", "rademacher", "aligned", "gaussian", "orthogonal", "input", "outputs", "masked"
        ]
        | None,
        Option(
            help="Of the squared Jacobian norms; default rademacher, and input for several layers."
        ),
    ] = None
    n_probes: Annotated[
        str,
        Option(
            metavar="N|auto",
            help="Probes an example; auto: one, and a second one on a subset, for the error.",
        ),
    ] = "auto"
    rtol: Annotated[
        float | None,
        Option(metavar="0.05", help="Probe until the interval has this relative half-width."),
    ] = None
    atol: Annotated[
        float | None, Option(metavar="0.1", help="Probe until the standard error is this small.")
    ] = None
    max_samples: Annotated[
        int | None, Option(metavar="N", help="Probe at most N examples; collapse still uses all.")
    ] = None
    max_seconds: Annotated[
        float | None,
        Option(
            metavar="60", help="Start no batch of probes after this time; collapse still uses all."
        ),
    ] = None
    memory_limit: Annotated[
        str | None,
        Option(metavar="2GB", help="Memory for the graph of a batch, which limits its size."),
    ] = None


@dataclass(frozen=True)
class FileOptions:
    """Files that are written beside the printed result."""

    out: OutFile = None
    save_features: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Keep features and Jacobian norms for features:FILE; .safetensors or .npz.",
        ),
    ] = None
    plot: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Draw the figure; several layers against depth. .png, .pdf or .svg.",
        ),
    ] = None

    def check(self, layers: list[str] | None) -> None:
        """Refuse files that cannot be written, before any work."""
        from geocollapse.measurement.figure import check_figure
        from geocollapse.store.formats import check_ending

        for name in ("out", "save_features", "plot"):
            check_writable(getattr(self, name), f"--{name.replace('_', '-')}")
        if self.plot is not None:
            check_figure(self.plot, argument="--plot")
        if self.save_features is not None:
            check_ending(self.save_features, argument="--save-features")
            if len(layers or []) > 1:
                raise ValueError(
                    f"--save-features: expected one layer, got {', '.join(layers or [])}; do one "
                    f"call a layer"
                )


@dataclass(frozen=True)
class _Measured:
    """A measurement, one line that names model and data, and their names for the provenance."""

    measurement: Measurement
    heading: str
    origin: Mapping[str, str | None] = field(default_factory=dict)


def measure(
    model: ModelArgument,
    model_options: ModelOptions,
    data_options: DataOptions,
    estimates: EstimateOptions,
    files: FileOptions,
    machine: MachineOptions,
    display: Display,
    data: DataArgument = None,
) -> Answer:
    """Measure a model on a data set.

    Geometric complexity, neural and geometric collapse and nearest-mean bounds, all in one pass
    over the data. The default split is train: neural collapse is a statement about training data.
    features:FILE in place of MODEL and DATA measures the features that --save-features kept. Under
    torchrun the processes share the work.
    """
    files.check(model_options.layer)
    request = Request(model, data, default_split="train")
    path = request.features_file(
        model_options, data_options, estimates, machine, used=("--device", "--threads")
    )
    if path is None:
        found = _of_model(request, model_options, data_options, estimates, machine, display)
    else:
        found = _of_file(path, machine)
    layers = [layer.to_dict() for layer in found.measurement.layers]
    for layer in layers:
        layer["provenance"] |= found.origin
    several = {"schema_version": SCHEMA_VERSION, "layers": layers}
    return Answer(
        json=layers[0] if len(layers) == 1 else several,
        text=f"{found.heading}\n\n{found.measurement}",
        rows=layers,
        out=files.out,
        files=_files_of(found, files),
    )


def _files_of(found: _Measured, files: FileOptions) -> list[OutputFile]:
    """The features and the figure that were asked for."""
    from geocollapse.measurement.figure import save_figure

    measurement = found.measurement
    asked = {
        "--save-features": (
            files.save_features,
            lambda path: measurement.save_features(path, origin=found.origin),
        ),
        "--plot": (files.plot, lambda path: save_figure(measurement.plot(), path)),
    }
    return [
        OutputFile(option, path, write)
        for option, (path, write) in asked.items()
        if path is not None
    ]


def _of_model(
    request: Request,
    model_options: ModelOptions,
    data_options: DataOptions,
    estimates: EstimateOptions,
    machine: MachineOptions,
    display: Display,
) -> _Measured:
    from geocollapse.measurement import measure as measure_model

    n_probes = _parse_probes(estimates.n_probes)
    limit = estimates.memory_limit
    memory_limit = None if limit is None else parse_bytes(limit, option="--memory-limit")
    names = model_options.layer
    inputs = first_here_first(lambda: request.resolve(model_options, data_options, machine))
    measurement = measure_model(
        inputs.model,
        inputs.source,
        layer=names[0] if names and len(names) == 1 else names,
        classifier=model_options.classifier,
        pool=model_options.pool,
        input_layer=model_options.input_layer,
        estimator=estimates.estimator,
        n_probes=n_probes,
        rtol=estimates.rtol,
        atol=estimates.atol,
        max_samples=estimates.max_samples,
        max_seconds=estimates.max_seconds,
        memory_limit=memory_limit,
        autocast=machine.autocast_dtype(),
        batch_size=machine.batch_size,
        seed=machine.seed,
        progress=not display.quiet,
    )
    return _Measured(measurement, inputs.heading(), inputs.origin)


def _of_file(path: Path, machine: MachineOptions) -> _Measured:
    """The measurement of a features file, which records its origin itself."""
    from geocollapse.measurement import measure_features

    set_threads(machine.threads)
    measurement = measure_features(path, device=find_device(machine.device))
    return _Measured(measurement, features_heading(path, measurement.layers[0].kept))


def _parse_probes(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"--n-probes: expected a positive number or auto, got {text!r}; do --n-probes 1"
        )
    return int(text)
