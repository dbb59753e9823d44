"""`geocollapse ood`: tell other data from the data by a density on a model's embedding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from geocollapse.cli.answer import SCHEMA_VERSION, Answer, Display, table
from geocollapse.cli.ood_calibration import Calibration, check_classifier
from geocollapse.cli.ood_data import OutlierData, find_all
from geocollapse.cli.ood_detector import Detector, FitOptions
from geocollapse.cli.options import (
    DataArgument,
    DataOptions,
    MachineOptions,
    ModelArgument,
    ModelOptions,
    OutFile,
)
from geocollapse.cli.output import OutputFile, check_writable
from geocollapse.cli.resolve import Request

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from geocollapse.cli.ood_types import AgainstDict, OodDict
    from geocollapse.estimate import Estimate
    from geocollapse.morse import Detection, DetectorSettings


@dataclass(frozen=True)
class OtherData:
    """The data that are scored."""

    against: Annotated[
        list[str] | None,
        Option(
            metavar="DATA",
            help="Other data, as DATA, or features:FILE beside a features file; repeated for "
            "several.",
        ),
    ] = None
    against_classes: Annotated[
        list[str] | None,
        Option(metavar="0-4,7", help="Classes of these; --classes are those of DATA."),
    ] = None
    held_out: Annotated[
        str | None,
        Option(
            metavar="DATA",
            help="Score these beside the other data; default the share of DATA that is not fitted.",
        ),
    ] = None
    fit_share: Annotated[
        float, Option(metavar="0.5", help="Share of DATA to fit on; all with --held-out.")
    ] = 0.5


@dataclass(frozen=True)
class OodFiles:
    """Files that are written, and the cache."""

    save: Annotated[
        Path | None, Option(metavar="FILE", help="Keep the detector; .safetensors.")
    ] = None
    plot: Annotated[
        Path | None, Option(metavar="FILE", help="Draw the scores. .png, .pdf or .svg.")
    ] = None
    reliability: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Draw the accuracy of the model by its confidence, with and without the "
            "temperature of the density.",
        ),
    ] = None
    no_cache: Annotated[
        bool, Option("--no-cache", help="Neither read nor keep features on disk.")
    ] = False
    out: OutFile = None

    def check(self) -> None:
        """Refuse files that cannot be written, before any work."""
        from geocollapse.measurement.figure import check_figure

        for name in ("save", "plot", "reliability", "out"):
            check_writable(getattr(self, name), f"--{name}")
        for name in ("plot", "reliability"):
            figure = getattr(self, name)
            if figure is not None:
                check_figure(figure, argument=f"--{name}")
        if self.save is not None and self.save.suffix != ".safetensors":
            raise ValueError(
                f"--save: expected a file ending in .safetensors, got {str(self.save)!r}; do "
                f"--save detector.safetensors"
            )


@dataclass(frozen=True, eq=False)
class _Scored:
    """Scores of a detector: -log density, larger for data unlike those it was fitted on."""

    data: OutlierData
    detector: Detector
    of_held_out: Tensor
    of_others: list[Tensor]
    detections: list[Detection]
    calibration: Calibration | None
    seconds_per_example: float


def ood(
    model: ModelArgument,
    model_options: ModelOptions,
    others: OtherData,
    fit_options: FitOptions,
    data_options: DataOptions,
    machine: MachineOptions,
    files: OodFiles,
    display: Display,
    data: DataArgument = None,
) -> Answer:
    """Tell other data from DATA by a density on a model's embedding.

    A Morse network is fitted on a share of DATA; held-out examples are scored against each
    --against set. The default split is test: features of the model's own training data are denser
    than any new ones. features:FILE in place of MODEL and DATA takes kept features.
    """
    files.check()
    fit_options.check(saves=files.save is not None)
    if not 0.0 < others.fit_share < 1.0:
        raise ValueError(
            f"--fit-share: expected a share between 0 and 1, got {others.fit_share}; do "
            f"--fit-share 0.5"
        )
    settings = fit_options.settings(machine.seed, progress=not display.quiet)
    request = Request(model, data, default_split="test")
    found = find_all(
        request,
        others.against or [],
        others.held_out,
        model_options,
        data_options,
        machine,
        against_classes=others.against_classes,
        use_cache=not files.no_cache,
    )
    if files.reliability is not None:
        check_classifier(found.held_out or found.data)
    scored = _scored(found, others, fit_options, settings)
    result = _as_json(scored, machine)
    return Answer(
        result,
        f"{_answered(scored)}\n{found.heading}\n\n{_shown(scored, result)}",
        rows=result["against"],
        out=files.out,
        files=_files_of(scored, files),
    )


def _scored(
    found: OutlierData, others: OtherData, options: FitOptions, settings: DetectorSettings
) -> _Scored:
    from geocollapse.morse import detection, outlier_scores

    if options.detector is None:
        detector = Detector.fitted(found, others.fit_share, options, settings)
    else:
        detector = Detector.read(found, options.detector)
    start = time.perf_counter()
    of_held_out = outlier_scores(detector.network, detector.held_out.features)
    of_others = [outlier_scores(detector.network, one.features) for one in found.others]
    n_scored = len(of_held_out) + sum(len(one) for one in of_others)
    seconds = (time.perf_counter() - start) / n_scored
    detections = [detection(of_held_out, one, seed=settings.seed) for one in of_others]
    calibration = Calibration.of(detector.network, detector.held_out)
    return _Scored(found, detector, of_held_out, of_others, detections, calibration, seconds)


def _as_json(scored: _Scored, machine: MachineOptions) -> OodDict:
    from geocollapse.runtime.provenance import provenance

    data = scored.data.data
    against: list[AgainstDict] = [
        {**found.to_dict(), "data": one.name, "split": one.split, "notes": list(one.notes)}
        for one, found in zip(scored.data.others, scored.detections, strict=True)
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "data": data.name,
        "split": data.split,
        "layer": data.layer,
        "n_features": data.features.shape[1],
        "n_fitted": scored.detector.n_fitted,
        "n_held_out": len(scored.of_held_out),
        "held_out": scored.data.held_out_name,
        "detector": scored.detector.about,
        "calibration": None if scored.calibration is None else scored.calibration.to_dict(),
        "against": against,
        "seconds_per_example": scored.seconds_per_example,
        "warnings": [
            *data.notes,
            *scored.detector.notes,
            *(note for one in against for note in one["notes"]),
        ],
        "provenance": {
            **data.origin,
            **provenance(seed=machine.seed, device=scored.of_held_out.device),
        },
    }


def _files_of(scored: _Scored, files: OodFiles) -> list[OutputFile]:
    """The detector and the figure, as far as they were asked for."""
    from geocollapse.charts import save_as, score_chart
    from geocollapse.morse import save_network

    found = []
    if files.save is not None:
        write = partial(save_network, scored.detector.network, about=scored.detector.beside())
        found.append(OutputFile("--save", files.save, write))
    if files.plot is not None:
        held_out = _numbers(scored.of_held_out)
        by_name = {f"{scored.data.held_out_name} (held out)": held_out}
        names = [one.label for one in scored.data.others]
        by_name |= dict(zip(names, map(_numbers, scored.of_others), strict=True))
        threshold = float(sorted(held_out)[int(0.95 * len(held_out) - 1e-9)])
        chart = score_chart(by_name, threshold, title=f"Scores against {scored.data.held_out_name}")
        found.append(OutputFile("--plot", files.plot, lambda path: save_as(chart, path)))
    if files.reliability is not None and scored.calibration is not None:
        reliability = scored.calibration.chart()
        found.append(
            OutputFile("--reliability", files.reliability, lambda path: save_as(reliability, path))
        )
    return found


def _numbers(scores: Tensor) -> np.ndarray:
    return scores.cpu().numpy()


def _answered(scored: _Scored) -> str:
    """The answer in one line: the other data that is hardest to tell."""
    pairs = zip(scored.data.others, scored.detections, strict=True)
    hardest, found = min(pairs, key=lambda pair: pair[1].auroc.value)
    name = scored.data.held_out_name
    auroc = f"AUROC {found.auroc.value:.3f} ({_range(found.auroc)})"
    if len(scored.data.others) == 1:
        return f"{hardest.label} is told from {name} with {auroc}"
    return f"Hardest to tell from {name}: {hardest.label}, {auroc}"


def _shown(scored: _Scored, result: OodDict) -> str:
    """A row for each other data set, then the detector and the notes."""
    columns = ("other data", "examples", "AUROC", "FPR at 95 % TPR", "AUPR")
    rows = [
        (one.label, found.n_out, *map(_cell, _values(found)))
        for one, found in zip(scored.data.others, scored.detections, strict=True)
    ]
    layer = result["layer"] or "the output"
    about = scored.detector.about
    kind = "features and classes" if about["labels"] else "features"
    fitted = (
        f"fitted on {scored.detector.n_fitted}"
        if about["file"] is None
        else f"from {about['file']}"
    )
    lines = [
        f"{layer}: density of {kind}, {about['kernel']} kernel, {fitted}; "
        f"{result['n_held_out']} held out, 95 % intervals",
        table(columns, rows),
        *([] if scored.calibration is None else [scored.calibration.line()]),
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in result["warnings"])])


def _values(found: Detection) -> Sequence[Estimate]:
    return (found.auroc, found.fpr95, found.aupr_in)


def _cell(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({_range(estimate)})"


def _range(estimate: Estimate) -> str:
    low, high = estimate.interval()
    return f"{low:.3f} to {high:.3f}"
