"""MODEL and DATA of the command line: names, files and options become objects of the library."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from geocollapse.cli.options import DataOptions, Device, MachineOptions, ModelOptions
from geocollapse.cli.wording import option_of

if TYPE_CHECKING:
    import torch
    from _typeshed import DataclassInstance
    from torch import nn
    from torch.utils.data import DataLoader

    from geocollapse.data import Labelled
    from geocollapse.measurement.cached import CollectSettings
    from geocollapse.models import LoadedModel, Prepared, TrainingRecord
    from geocollapse.store import KeptLayer


_MOST = 64  # threads or processes that are taken on any machine
FEATURES = "features:"  # precedes the name of a features file in place of a model


class Selection(TypedDict):
    """The arguments of ``geocollapse.data.load`` that choose examples.

    Attributes:
        data_root: folder of the data sets.
        classes: by number or name.
        subset: number of examples.
        seed: of the subset.
        text_column: of a table.
        label_column: of a table.
        image_column: of a table.
        skip_broken: leave out images that do not decode.
    """

    data_root: Path | None
    classes: str | None
    subset: int | None
    seed: int
    text_column: str | None
    label_column: str | None
    image_column: str | None
    skip_broken: bool


def selection(options: DataOptions, seed: int) -> Selection:
    """The choice of examples as the options name it."""
    return {
        "data_root": options.data_root,
        "classes": ",".join(options.classes) if options.classes else None,
        "subset": options.subset,
        "seed": seed,
        "text_column": options.text_column,
        "label_column": options.label_column,
        "image_column": options.image_column,
        "skip_broken": options.skip_broken,
    }


@dataclass(frozen=True)
class ModelAndData:
    """A model and the data to run it on.

    Attributes:
        model: on its device, in its precision.
        dataset: the examples, with their `name`, `split` and `classes`.
        source: the data set, or a DataLoader over it if worker processes were asked for.
        origin: model, weights, data and split, for the provenance.
        loaded: the model with what its inputs go through, to prepare other data for it.
    """

    model: nn.Module
    dataset: Prepared
    source: Prepared | DataLoader[object]
    origin: dict[str, str | None]
    loaded: LoadedModel

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Names of the classes that the model was trained on, where they are known."""
        return self.loaded.classes

    @property
    def record(self) -> TrainingRecord | None:
        """What the training of a run folder recorded."""
        return self.loaded.record

    def heading(self) -> str:
        """One line that names model, weights, data and split."""
        parts = {"entry": self.origin["weights_key"], "prefix": self.origin["weights_prefix"]}
        named = "".join(f", {part} {name}" for part, name in parts.items() if name)
        weights = {None: "as its factory made it", "random": "random weights"}.get(
            self.origin["weights"], f"weights {self.origin['weights']}{named}"
        )
        data = f"{self.origin['data']}, split {self.origin['split']}"
        return f"{self.origin['model']} ({weights}) on {data}"


@dataclass(frozen=True)
class Request:
    """MODEL and DATA as the user named them."""

    model: str
    data: str | None
    default_split: str
    read: Labelled | None = None  # the examples of ``data``, where several models share them
    require_labels: bool = True

    def features_file(self, *options: DataclassInstance, used: Collection[str] = ()) -> Path | None:
        """The FILE of a MODEL ``features:FILE``, else None.

        It takes no DATA, and of ``options`` only those in ``used``.
        """
        if not self.model.startswith(FEATURES):
            return None
        given: dict[str, object] = {"DATA": self.data} if self.data is not None else {}
        for group in options:
            given |= {name: value for name, value in _changed(group).items() if name not in used}
        for name, value in given.items():
            raise ValueError(
                f"{name}: expected none with {self.model}, whose features are measured as they "
                f"are, got {value}; "
                f"do leave it out"
            )
        return Path(self.model.removeprefix(FEATURES))

    def resolve(
        self, models: ModelOptions, data: DataOptions, machine: MachineOptions
    ) -> ModelAndData:
        """Load both, and put the model on its device."""
        import torch

        if self.data is None:
            raise ValueError(
                "DATA: expected a data set behind MODEL, got none; do name one of `geocollapse "
                "data`"
            )
        set_threads(machine.threads)
        check_number("--num-workers", machine.num_workers)
        torch.manual_seed(machine.seed)  # of a factory that initialises its weights
        loaded = load_model(self.model, models)
        dataset = self.dataset(self.data, loaded, models.tokenizer, data, machine.seed)
        device = find_device(machine.device)
        model = loaded.model.to(device=device, dtype=_dtype(machine.dtype, device)).eval()
        origin = {
            "model": loaded.name,
            "weights": loaded.weights,
            "weights_key": loaded.weights_key,
            "weights_prefix": loaded.weights_prefix,
            "data": dataset.name,
            "split": dataset.split,
        }
        source = with_workers(dataset, machine)
        return ModelAndData(model, dataset, source, origin, loaded)

    def dataset(
        self, data: str, loaded: LoadedModel, tokenizer: str | None, options: DataOptions, seed: int
    ) -> Prepared:
        """The examples of a data set as a loaded model takes them."""
        from geocollapse.models import prepare

        make = partial(
            prepare,
            loaded,
            image_size=options.image_size,
            mean=parse_numbers(options.mean, option="--mean"),
            std=parse_numbers(options.std, option="--std"),
            tokenizer=tokenizer,
            max_length=options.max_length,
            next_tokens=options.next_tokens,
        )
        if self.read is not None:
            return make(data=self.read)
        return make(
            data=data,
            default_split=self.default_split,
            require_labels=self.require_labels,
            **selection(options, seed),
        )


def collect_settings(options: ModelOptions, machine: MachineOptions) -> CollectSettings:
    """How the features of one layer are collected."""
    from geocollapse.measurement.cached import CollectSettings

    names = options.layer or []
    if len(names) > 1:
        raise ValueError(
            f"--layer: expected one layer, got {', '.join(names)}; do one call a layer"
        )
    return CollectSettings(
        layer=names[0] if names else None,
        classifier=options.classifier,
        pool=options.pool,
        input_layer=options.input_layer,
        autocast=machine.autocast_dtype(),
        batch_size=machine.batch_size,
    )


def features_heading(path: Path, kept: KeptLayer) -> str:
    """One line that names a features file and its origin, as far as the file tells it."""
    origin = kept.context.provenance
    made = (
        f" of {origin['model']} on {origin['data']}, split {origin['split']}"
        if {"model", "data", "split"} <= set(origin)
        else ""
    )
    return f"{path}: features{made}"


def load_model(spec: str, options: ModelOptions) -> LoadedModel:
    """A run folder, a model by name, or a factory by file or module."""
    from geocollapse import models

    model_args = parse_settings(options.model_arg or [], option="--model-arg")
    folder, at = models.parse_model(spec)
    if Path(folder).is_dir():
        from geocollapse.experiments.results.folders import load_model as load_run

        if model_args or options.weights or not (at or "0").isdecimal():
            raise ValueError(
                f"--weights: expected none for a run folder, which has its own, got {spec}; do "
                f"leave it out, or {folder}@STEP for a checkpoint that it keeps"
            )
        _check_run(folder)
        return load_run(Path(folder), step=None if at is None else int(at))
    return models.load(
        spec,
        weights=options.weights,
        weights_key=options.weights_key,
        weights_prefix=options.weights_prefix,
        model_args=model_args,
    )


def _check_run(folder: str) -> None:
    """Refuse a folder that is no run; one of another kind is told its form."""
    if (Path(folder) / "config.yaml").exists():
        return
    kind = f"hf:{folder}" if (Path(folder) / "config.json").exists() else f"MODEL folder:{folder}"
    raise ValueError(
        f"MODEL: expected a run folder, with config.yaml, got the folder {folder!r} without one; "
        f"do {kind}"
    )


def find_device(name: Device) -> torch.device:
    """The device called ``name``; `auto` is the first present of CUDA, Apple's MPS and the CPU."""
    import torch

    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, is_there in present.items() if is_there))
    if not present[name]:
        raise ValueError(
            f"--device: expected a device of this machine, got {name}; do --device auto"
        )
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """Let torch compute with ``threads`` CPU threads; None leaves their number alone."""
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads: expected a positive number, got {threads}; do --threads 1")
    check_number("--threads", threads)
    torch.set_num_threads(threads)


def check_number(option: str, number: int) -> None:
    """Refuse more threads or processes than a machine starts: torch ends with a signal there."""
    n_cpus = os.cpu_count() or 1
    most = max(_MOST, 2 * n_cpus)
    if not 0 <= number <= most:
        raise ValueError(
            f"{option}: expected 0 to {most}, got {number} on {n_cpus} CPUs; do {option} {n_cpus}"
        )


def parse_numbers(text: str | None, *, option: str) -> tuple[float, ...] | None:
    """Numbers separated by commas.

    Examples:
        >>> parse_numbers("0.485,0.456", option="--mean")
        (0.485, 0.456)
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(
            f"{option}: expected numbers separated by commas, got {text!r}; do {option} 0.5"
        ) from None


def parse_bytes(text: str, *, option: str) -> int:
    """`500MB`, `2GB` or a plain number of bytes.

    Examples:
        >>> parse_bytes("2GB", option="--memory-limit")
        2000000000
    """
    number = text.rstrip("KMGB")
    unit = text[len(number) :]
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    if unit not in units or not number.replace(".", "", 1).isdecimal():
        raise ValueError(
            f"{option}: expected a size such as 500MB or 2GB, got {text!r}; do {option} 2GB"
        )
    return int(float(number) * units[unit])


def parse_settings(settings: Sequence[str], *, option: str) -> dict[str, object]:
    """KEY=VALUE texts as a dictionary.

    Values are read as YAML, which gives `2`, `true`, `null` and `[1, 2]` their type.
    """
    from geocollapse.experiments.recipe import parse_yaml

    parsed: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ValueError(
                f"{option}: expected KEY=VALUE, got {setting!r}; do {option} KEY=VALUE"
            )
        parsed[key] = parse_yaml(value, where=f"{option} {key}")
    return parsed


def _changed(options: DataclassInstance) -> dict[str, object]:
    """The options of a group that differ from their default, as the command line names them."""
    return {
        option_of(field.name): getattr(options, field.name)
        for field in fields(options)
        if getattr(options, field.name) != field.default
    }


def _dtype(name: str | None, device: torch.device) -> torch.dtype | None:
    import torch

    from geocollapse.numerics import NO_FLOAT64

    if name == "float64" and device.type in NO_FLOAT64:
        raise ValueError(
            f"--dtype: expected float32 or bfloat16 on {device.type}, which has no float64, got "
            f"{name}; do --device cpu"
        )
    return None if name is None else getattr(torch, name)


def with_workers(dataset: Prepared, machine: MachineOptions) -> Prepared | DataLoader[object]:
    """The examples, or a DataLoader over them if worker processes were asked for."""
    from torch.utils.data import DataLoader

    if machine.num_workers == 0:
        return dataset
    collate = getattr(dataset, "collate_fn", None)
    return DataLoader(
        dataset, machine.batch_size or 256, num_workers=machine.num_workers, collate_fn=collate
    )
