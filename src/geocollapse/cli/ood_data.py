"""The data of `geocollapse ood`: features of the data and of others, from a model or from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geocollapse.cli.options import DataOptions, MachineOptions, ModelOptions
from geocollapse.cli.resolve import (
    FEATURES,
    ModelAndData,
    Request,
    collect_settings,
    features_heading,
    find_device,
    set_threads,
    with_workers,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from geocollapse.measurement.cached import CollectSettings
    from geocollapse.models import Prepared
    from geocollapse.store.cache import FeatureCache
    from geocollapse.store.kept import LinearHead

_PREPARATION = ("mean", "std", "input shape", "image_size", "resize", "crop", "interpolation")


@dataclass(frozen=True)
class Source:
    """The model and layer that features come from; None for what is not known.

    Attributes:
        model: its name.
        digest: of its code and weights.
        layer: whose features they are.
        pool: how positions were pooled.
    """

    model: str | None = None
    digest: str | None = None
    layer: str | None = None
    pool: str | None = None

    def difference(self, other: Source) -> str:
        """What these features are, in words, if they are known to be none of ``other``."""
        if self.digest is not None and other.digest is not None:
            if self.digest != other.digest:
                return f"{self.model}, which has other weights, code or precision"
            if self.pool != other.pool:
                return f"{self.model} with --pool {self.pool or 'unset'}"
        elif None not in (self.model, other.model) and self.model != other.model:
            return f"the model {self.model}"
        if None not in (self.layer, other.layer) and self.layer != other.layer:
            return f"the layer {self.layer or 'of the output'!r} of {self.model}"
        return ""


@dataclass(frozen=True, eq=False)
class Found:
    """Features of one data set.

    Attributes:
        features: (n, p).
        labels: (n,).
        name: of the data set.
        split: the part of it.
        layer: whose features they are.
        source: likewise, as far as it is known.
        digests: a digest of each example, the same wherever it is found.
        holds: what the digests are of, ``inputs`` of a model or ``features`` of a file.
        class_names: a name for class 0, 1, ..., if they are known.
        head: the linear classifier that the layer feeds, if any.
        origin: of the features, for the provenance.
        preparation: how inputs became those of the model, as far as it is known.
        notes: what a reader must know.
    """

    features: Tensor
    labels: Tensor
    name: str
    split: str | None
    layer: str
    source: Source
    digests: Callable[[], list[str]]
    holds: Literal["inputs", "features"]
    class_names: Sequence[str] | None = None
    head: LinearHead | None = None
    origin: Mapping[str, object] = field(default_factory=dict)
    preparation: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name and split."""
        return self.name if self.split is None else f"{self.name}:{self.split}"

    def rows(self, rows: Tensor) -> Found:
        """Some of the examples."""
        rows = rows.to(self.features.device)
        labels = self.labels[rows.to(self.labels.device)]

        def digests() -> list[str]:
            found = self.digests()
            return [found[row] for row in rows.tolist()]

        return replace(self, features=self.features[rows], labels=labels, digests=digests)


@dataclass(frozen=True, eq=False)
class OutlierData:
    """The data, held-out data if they were named, and the others.

    Attributes:
        data: to fit on, or to split.
        held_out: None to hold out a share of the data.
        others: to be told from them.
        heading: one line that names the origin.
    """

    data: Found
    held_out: Found | None
    others: list[Found]
    heading: str

    @property
    def held_out_name(self) -> str:
        """The name of the data set that held-out examples come from."""
        return (self.held_out or self.data).label

    def split(self, fit_share: float, seed: int) -> tuple[Found, Found]:
        """The data to fit on, and those to score: named ones, or the rest of the data."""
        import torch

        if self.held_out is not None:
            return self.data, self.held_out
        n = len(self.data.features)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        n_fit = round(fit_share * n)
        if not 2 <= n_fit <= n - 2:
            raise ValueError(
                f"--fit-share: expected at least 2 examples on either side, got {n_fit} of {n}; do "
                f"more examples, or --held-out DATA"
            )
        held_out = order[n_fit:].sort().values  # as a saved detector finds them again
        return self.data.rows(order[:n_fit]), self.data.rows(held_out)


def find_all(
    request: Request,
    against: Sequence[str],
    held_out: str | None,
    model_options: ModelOptions,
    data_options: DataOptions,
    machine: MachineOptions,
    *,
    against_classes: list[str] | None,
    use_cache: bool,
) -> OutlierData:
    """Features of all data sets, each with a note where it was prepared otherwise than the data.

    Raises:
        ValueError: no other data, features of different widths, and what the data sets raise.
    """
    if not against:
        raise ValueError(
            "--against: expected at least one other data set, got none; do --against cifar100"
        )
    path = request.features_file(
        model_options, data_options, machine, used=("--device", "--threads", "--seed")
    )
    if path is not None:
        device = find_device(machine.device)
        set_threads(machine.threads)
        data = _of_file(path, device)
        held = None if held_out is None else _of_spec(held_out, "--held-out", device)
        others = [_of_spec(spec, "--against", device) for spec in against]
        heading = _heading(path, device)
    else:
        reader = _Reader.of(request, model_options, data_options, machine, use_cache)
        heading = reader.inputs.heading()
        data = reader.read(reader.inputs.dataset)
        held = None if held_out is None else reader.read_named(held_out, data_options)
        changed = replace(data_options, classes=against_classes)
        others = [reader.read_named(spec, changed) for spec in against]
    sets = [*([] if held is None else [held]), *others]
    for one in sets:
        _check_width(one, data)
    noted = [_noted(one, data) for one in others]
    return OutlierData(data, None if held is None else _noted(held, data), noted, heading)


@dataclass(frozen=True, eq=False)
class _Reader:
    """A model that reads one data set after another."""

    request: Request
    inputs: ModelAndData
    digest: str | None
    tokenizer: str | None
    machine: MachineOptions
    settings: CollectSettings
    cache: FeatureCache | None

    @classmethod
    def of(
        cls,
        request: Request,
        options: ModelOptions,
        data_options: DataOptions,
        machine: MachineOptions,
        use_cache: bool,
    ) -> _Reader:
        from geocollapse.models.fingerprint import fingerprint
        from geocollapse.store.cache import FeatureCache

        settings = collect_settings(options, machine)
        inputs = request.resolve(options, data_options, machine)
        cache = FeatureCache() if use_cache else None
        digest = fingerprint(inputs.model)
        return cls(request, inputs, digest, options.tokenizer, machine, settings, cache)

    def read_named(self, spec: str, options: DataOptions) -> Found:
        """Features of a data set by name, prepared as the model takes it."""
        if spec.startswith(FEATURES):
            return _of_spec(spec, "--against", find_device(self.machine.device))
        dataset = self.request.dataset(
            spec, self.inputs.loaded, self.tokenizer, options, self.machine.seed
        )
        return self.read(dataset)

    def read(self, dataset: Prepared) -> Found:
        """Features of a data set, from a pass of the model or from the cache."""
        from geocollapse.measurement.cached import cached_features

        origin = {**self.inputs.origin, "data": dataset.name, "split": dataset.split}
        kept = cached_features(
            self.inputs.model,
            with_workers(dataset, self.machine),
            self.settings,
            cache=self.cache,
            origin=origin,
        )
        return Found(
            features=kept.features,
            labels=kept.labels,
            name=dataset.name,
            split=dataset.split,
            layer=kept.layer,
            source=Source(
                self.inputs.origin["model"],
                self.digest,
                kept.layer,
                self.settings.pool,
            ),
            digests=dataset.example_digests,
            holds="inputs",
            class_names=kept.context.class_names,
            head=kept.head,
            origin=kept.context.provenance,
            preparation=_preparation_of(dataset),
            notes=dataset.notes,
        )


def _preparation_of(dataset: Prepared) -> Mapping[str, object]:
    """The normalisation, the sizes, and the shape of the inputs where all have one."""
    from torch import Tensor

    about: dict[str, object] = {
        **(dataset.preprocessing or {}),
        "mean": dataset.mean,
        "std": dataset.std,
    }
    first = dataset[0][0]
    if isinstance(first, Tensor) and dataset.mean is not None:
        about["input shape"] = tuple(first.shape)
    return about


def _of_spec(spec: str, option: str, device: torch.device) -> Found:
    """The features of a FILE named as features:FILE."""
    if not spec.startswith(FEATURES):
        raise ValueError(
            f"{option}: expected features:FILE beside a features file, got {spec!r}; do measure "
            f"{spec} with --save-features"
        )
    return _of_file(Path(spec.removeprefix(FEATURES)), device)


def _of_file(path: Path, device: torch.device) -> Found:
    from geocollapse.store import read_features

    kept = read_features(path, device=device)
    origin = kept.context.provenance
    data = origin.get("data")
    model = origin.get("model")
    source = Source(model, None, kept.layer) if isinstance(model, str) else Source()
    return Found(
        features=kept.features,
        labels=kept.labels,
        name=data if isinstance(data, str) else path.stem,
        split=kept.context.split,
        layer=kept.layer,
        source=source,
        digests=partial(_row_digests, kept.features),
        holds="features",
        class_names=kept.context.class_names,
        head=kept.head,
        origin=origin,
        preparation=kept.context.preprocessing,
    )


def _row_digests(features: Tensor) -> list[str]:
    """A digest of each row (n, p)."""
    import hashlib

    rows = features.cpu().float().numpy()
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in rows]


def _heading(path: Path, device: torch.device) -> str:
    from geocollapse.store import read_features

    return features_heading(path, read_features(path, device=device))


def _check_width(one: Found, data: Found) -> None:
    if one.features.shape[1] != data.features.shape[1]:
        raise ValueError(
            f"--against: expected {data.features.shape[1]} features, as {data.label} has, got "
            f"{one.features.shape[1]} of {one.label}; do take both from one layer of one model"
        )


def _noted(one: Found, data: Found) -> Found:
    """The features, with a note if they were prepared otherwise than the data."""
    differing = differences(one.preparation, data.preparation)
    if not differing:
        return one
    note = (
        f"{one.label} was prepared otherwise than {data.label} ({differing}): a "
        f"detector may see that alone; do --image-size, --mean and --std for all"
    )
    return replace(one, notes=(*one.notes, note))


def differences(one: Mapping[str, object], expected: Mapping[str, object]) -> str:
    """The settings of a preparation that differ from those expected, in words."""
    return "; ".join(
        f"{name} {as_text(one.get(name))} in place of {as_text(expected[name])}"
        for name in _PREPARATION
        if name in expected and as_text(one.get(name)) != as_text(expected[name])
    )


def as_text(value: object) -> str:
    """A setting in short, numbers to four digits."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"({', '.join(as_text(item) for item in value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
