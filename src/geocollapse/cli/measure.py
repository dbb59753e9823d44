"""`geocollapse measure`: every measure of one model on one data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from typer import Option

from geocollapse.cli.answer import Answer, Display
from geocollapse.cli.options import DataArgument, DataOptions, MachineOptions, ModelArgument, ModelOptions, OutFile


@dataclass(frozen=True)
class EstimateOptions:
    """How geometric complexity is estimated."""

    estimator: Annotated[
        Literal["exact", "rademacher", "aligned", "gaussian", "orthogonal", "input", "outputs", "masked"],
        Option(help="Of the squared Jacobian norms."),
    ] = "rademacher"
    n_probes: Annotated[
        str, Option(metavar="N|auto", help="Probes an example; auto: one, and a second on a subset for the error.")
    ] = "auto"
    rtol: Annotated[
        float | None, Option(metavar="0.05", help="Probe until the interval is this narrow, relatively.")
    ] = None
    atol: Annotated[float | None, Option(metavar="0.1", help="Probe until the standard error is this small.")] = None
    max_samples: Annotated[
        int | None, Option(metavar="N", help="Probe at most N examples; collapse still uses all.")
    ] = None
    max_seconds: Annotated[
        float | None, Option(metavar="60", help="Probe no further batch after this time; collapse still uses all.")
    ] = None
    memory_limit: Annotated[
        str | None, Option(metavar="2GB", help="Of the graph of a batch; batches are made small enough.")
    ] = None
    out: OutFile = None


def measure(
    model: ModelArgument,
    data: DataArgument,
    model_options: ModelOptions,
    data_options: DataOptions,
    estimates: EstimateOptions,
    machine: MachineOptions,
    display: Display,
) -> Answer:
    """Measure a model on a data set.

    Geometric complexity, neural and geometric collapse and nearest-mean bounds, all in one pass over the data. The
    default split is train: neural collapse is a statement about training data.
    """
    from geocollapse.cli.resolve import Request
    from geocollapse.measurement import measure as measure_model

    n_probes, memory_limit = _parse_probes(estimates.n_probes), _parse_bytes(estimates.memory_limit)
    inputs = Request(model, data, default_split="train").resolve(model_options, data_options, machine)
    measurement = measure_model(
        inputs.model,
        inputs.source,
        layer=model_options.layer,
        classifier=model_options.classifier,
        estimator=estimates.estimator,
        n_probes=n_probes,
        rtol=estimates.rtol,
        atol=estimates.atol,
        max_samples=estimates.max_samples,
        max_seconds=estimates.max_seconds,
        memory_limit=memory_limit,
        batch_size=machine.batch_size,
        seed=machine.seed,
        progress=not display.quiet,
    )
    result = measurement.layers[0].to_dict()
    result["provenance"] |= inputs.origin
    return Answer(json=result, text=f"{inputs.heading()}\n\n{measurement}", out=estimates.out)


def _parse_probes(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--n-probes: expected a positive number or auto, got {text!r}; do --n-probes 1")
    return int(text)


def _parse_bytes(text: str | None) -> int | None:
    """`500MB`, `2GB` or a plain number of bytes."""
    if text is None:
        return None
    number, unit = text.rstrip("KMGB"), text[len(text.rstrip("KMGB")) :]
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    if unit not in units or not number.replace(".", "", 1).isdecimal():
        raise ValueError(f"--memory-limit: expected a size such as 500MB or 2GB, got {text!r}; do --memory-limit 2GB")
    return int(float(number) * units[unit])
