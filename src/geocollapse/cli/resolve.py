"""MODEL and DATA of the command line: names, files and options become objects of the library."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geocollapse.cli.options import DataOptions, Device, MachineOptions, ModelOptions

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset

    from geocollapse.models import LoadedModel
    from geocollapse.store import KeptLayer


FEATURES = "features:"  # before the name of a features file in place of a model
# of transformers, with token types and no number of them in the configuration
_WITHOUT_NUMBER = ("xlnet", "funnel")


@dataclass(frozen=True)
class ModelAndData:
    """A model and the data to run it on.

    Attributes:
        model: on its device, in its precision.
        dataset: the examples, with their `name`, `split` and `classes`.
        source: the data set, or a DataLoader over it where batches or worker processes were asked
            for.
        origin: which model, weights, data and split these are, for the provenance.
    """

    model: nn.Module
    dataset: Any
    source: Dataset[Any] | DataLoader[Any]
    origin: dict[str, str | None]

    def heading(self) -> str:
        """One line that names model, weights, data and split."""
        key = f", entry {self.origin['weights_key']}" if self.origin["weights_key"] else ""
        weights = {None: "as its factory made it", "random": "random weights"}.get(
            self.origin["weights"], f"weights {self.origin['weights']}{key}"
        )
        return f"{self.origin['model']} ({weights}) on {self.origin['data']}, split {self.origin['split']}"


@dataclass(frozen=True)
class Request:
    """MODEL and DATA as the user named them."""

    model: str
    data: str | None
    default_split: str

    def features_file(self, *options: Any, used: Collection[str] = ()) -> Path | None:
        """The FILE of a MODEL ``features:FILE``, else None; it takes no DATA, and of ``options``
        only ``used``.
        """
        if not self.model.startswith(FEATURES):
            return None
        given = {"DATA": self.data} if self.data is not None else {}
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
        torch.manual_seed(machine.seed)  # of a factory that initialises its weights
        loaded = load_model(self.model, models)
        dataset = load_data(
            self.data, data, seed=machine.seed, default_split=self.default_split, trained=loaded
        )
        dataset = _tokens(dataset, data, loaded, models.tokenizer)
        device = find_device(machine.device)
        model = loaded.model.to(device=device, dtype=_dtype(machine.dtype, device)).eval()
        origin = {
            "model": loaded.name,
            "weights": loaded.weights,
            "weights_key": loaded.weights_key,
            "data": dataset.name,
            "split": dataset.split,
        }
        return ModelAndData(model, dataset, _with_workers(dataset, machine), origin)


def features_heading(path: Path, kept: KeptLayer) -> str:
    """One line that names a features file and what it was made from, where that is known."""
    origin = kept.context.provenance
    made = (
        f" of {origin['model']} on {origin['data']}, split {origin['split']}"
        if "model" in origin
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

        if model_args or options.weights or at:
            raise ValueError(
                f"--weights: expected none for a run folder, which has its own, got {spec}; do "
                f"leave it out"
            )
        return load_run(Path(folder))
    return models.load(
        spec, weights=options.weights, weights_key=options.weights_key, model_args=model_args
    )


def load_data(
    spec: str,
    options: DataOptions,
    *,
    seed: int,
    default_split: str,
    trained: LoadedModel | None = None,
) -> Any:
    """The data set that DATA and its options name, prepared as the model asks or as its run was
    trained.
    """
    from geocollapse import data

    config = getattr(trained, "config", None)
    own = (
        {key: getattr(config.data, key) for key in ("mean", "std", "pad_to")}
        if config is not None
        else {}
    )
    if trained is not None:
        own["preprocessing"] = trained.preprocessing
    given = {
        "image_size": options.image_size,
        "mean": parse_numbers(options.mean, option="--mean"),
        "std": parse_numbers(options.std, option="--std"),
    }
    return data.load(
        spec,
        default_split=default_split,
        data_root=options.data_root,
        classes=",".join(options.classes) if options.classes else None,
        subset=options.subset,
        seed=seed,
        **(own | {key: value for key, value in given.items() if value is not None}),
    )


def _tokens(dataset: Any, options: DataOptions, loaded: LoadedModel, name: str | None) -> Any:
    """Texts as tokens of the model's own tokenizer, or of the one called ``name``; other data as it
    is.
    """
    from geocollapse.data import LabelledTexts
    from geocollapse.models import load_tokenizer

    given = {
        "--tokenizer": name,
        "--max-length": options.max_length,
        "--next-tokens": options.next_tokens,
    }
    if not isinstance(dataset, LabelledTexts):
        for option, value in given.items():
            if value is not None:
                raise ValueError(
                    f"{option}: expected none with {dataset.name}, which holds no texts, got "
                    f"{value}"
                )
        return dataset
    tokenizer = loaded.tokenizer if name is None else load_tokenizer(name)
    if tokenizer is None:
        raise ValueError(
            f"--tokenizer: expected one for the texts of {dataset.name}, got none with "
            f"{loaded.name}; "
            f"do --tokenizer DIR"
        )
    if options.next_tokens is None:
        return dataset.tokens(
            tokenizer, max_length=options.max_length, token_types=_has_token_types(loaded.model)
        )
    return dataset.next_tokens(
        tokenizer, context=options.next_tokens, max_length=options.max_length
    )


def _has_token_types(model: nn.Module) -> bool:
    """Whether token types mean something to a model; some of transformers that have none embed them
    as tokens.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    return kind in (None, *_WITHOUT_NUMBER) or hasattr(config, "type_vocab_size")


def find_device(name: Device) -> torch.device:
    """The device called ``name``; `auto` is CUDA, Apple's MPS or the CPU, what there is first."""
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
    """Let torch compute with ``threads`` CPU threads; None leaves it alone."""
    import torch

    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads: expected a positive number, got {threads}; do --threads 1")
    torch.set_num_threads(threads)


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


def parse_settings(settings: Sequence[str], *, option: str) -> dict[str, Any]:
    """KEY=VALUE texts as a dictionary; a value is read as YAML, so `2`, `true`, `null` and `[1, 2]`
    have their type.
    """
    from geocollapse.experiments.recipe import parse_yaml

    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not (key and equals):
            raise ValueError(
                f"{option}: expected KEY=VALUE, got {setting!r}; do {option} KEY=VALUE"
            )
        parsed[key] = parse_yaml(value, where=f"{option} {key}")
    return parsed


def _changed(options: Any) -> dict[str, Any]:
    """The options of a group that are not at their default, as they are written on the command
    line.
    """
    values = {
        f"--{field.name.replace('_', '-')}": (getattr(options, field.name), field)
        for field in fields(options)
    }
    return {name: value for name, (value, field) in values.items() if value != field.default}


def _dtype(name: str | None, device: torch.device) -> torch.dtype | None:
    import torch

    from geocollapse.numerics import NO_FLOAT64

    if name == "float64" and device.type in NO_FLOAT64:
        raise ValueError(
            f"--dtype: expected float32 or bfloat16 on {device.type}, which has no float64, got "
            f"{name}; do --device cpu"
        )
    return None if name is None else getattr(torch, name)


def _with_workers(dataset: Dataset[Any], machine: MachineOptions) -> Dataset[Any] | DataLoader[Any]:
    from torch.utils.data import DataLoader

    if machine.num_workers == 0:
        return dataset
    collate = getattr(dataset, "collate_fn", None)
    return DataLoader(
        dataset, machine.batch_size or 256, num_workers=machine.num_workers, collate_fn=collate
    )
