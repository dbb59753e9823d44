"""The data of a run as tensors: what it trains on, and what it is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from geocollapse import data as datasets
from geocollapse.data import LabelledData, with_random_labels
from geocollapse.experiments.supervised.sentences import sentence_features

if TYPE_CHECKING:
    from pathlib import Path

    from geocollapse.data import LabelledImages, LabelledTexts
    from geocollapse.data.labelled import Classes
    from geocollapse.experiments.recipe import DataConfig, RunConfig


def load_run_data(
    config: DataConfig, *, device: torch.device | str = "cpu", data_root: str | Path | None = None
) -> tuple[LabelledData, LabelledData | None]:
    """Source classes to train on, and target classes or None, as tensors on ``device``.

    Subsets and random labels are the same for every seed: seeds differ in initial weights and in
    the order of the examples. Only labels of the source are drawn at random.
    """
    of_source = _Examples(
        config.source_split,
        "train",
        config.source_classes,
        config.subset,
        ("data.source_split", "data.source_classes", "data.subset"),
        config.n_classes,
    )
    clean = _load(config, of_source, data_root).to(device)
    source = with_random_labels(clean, config.random_labels, seed=config.random_labels_seed)
    if not config.has_target:
        return source, None
    classes = config.source_classes if config.target_classes is None else config.target_classes
    of_target = _Examples(
        config.target_split,
        "test",
        classes,
        config.target_subset,
        ("data.target_split", "data.target_classes", "data.target_subset"),
    )
    return source, _load(config, of_target, data_root).to(device)


def load_test_data(
    config: DataConfig, *, device: torch.device | str = "cpu", data_root: str | Path | None = None
) -> LabelledData | None:
    """The source classes in the test split on ``device``; None where the recipe names no split."""
    if config.test_split is None:
        return None
    of_test = _Examples(
        config.test_split,
        "test",
        config.source_classes,
        config.test_subset,
        ("data.test_split", "data.source_classes", "data.test_subset"),
        config.n_classes,
    )
    return _load(config, of_test, data_root).to(device)


def load_other_task(
    config: RunConfig, source: LabelledData, *, data_root: str | Path | None = None
) -> LabelledData | None:
    """The other task of `measuring.order_effect` on the device of the source; None without one.

    Its images are prepared as those of the source, with a mean and standard deviation of their own
    where the recipe gives none. Its classes are numbered from 0, like those of the source: both
    tasks share the outputs of the network.

    Raises:
        ValueError: more classes than the source has, inputs of another shape, or fewer examples
            than the subset.
    """
    wanted = config.measuring.order_effect
    if wanted is None:
        return None
    part = "measuring.order_effect"
    keys = (f"{part}.split", f"{part}.classes", f"{part}.subset")
    examples = _Examples(wanted.split, "train", wanted.classes, wanted.subset, keys)
    named = config.data.model_copy(update={"name": wanted.name})
    other = _load(named, examples, data_root).to(source.inputs.device)
    if other.n_classes > source.n_classes:
        raise ValueError(
            f"measuring.order_effect.classes: expected at most the {source.n_classes} classes of "
            f"the source, as both tasks share the outputs, got {other.n_classes}; do "
            f"measuring.order_effect.classes=0-{source.n_classes - 1}"
        )
    shape = tuple(other.inputs.shape[1:])
    if shape != tuple(source.inputs.shape[1:]):
        raise ValueError(
            f"measuring.order_effect.name: expected inputs {tuple(source.inputs.shape[1:])}, the "
            f"shape of the source, got {shape} of {wanted.name}; do data.image_size or data.pad_to"
        )
    return other


@dataclass(frozen=True)
class _Examples:
    """Which examples of a data set: a split, or the default one; some classes; a subset.

    ``keys`` are those of the recipe behind split, classes and subset; ``n_classes`` are the first
    ones of ``classes``.
    """

    split: str | None
    default_split: str
    classes: Classes
    subset: int | None
    keys: tuple[str, str, str]
    n_classes: int | None = None

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors about arguments of ``geocollapse.data`` as errors about keys of the recipe."""
        try:
            yield
        except ValueError as error:
            argument, _, text = str(error).partition(": ")
            arguments = ("split", "classes", "subset")
            if argument not in arguments:
                raise
            key = self.keys[arguments.index(argument)]
            said, _, remedy = text.rpartition("; do ")
            value = remedy.partition("=")[2] or remedy.rpartition(":")[2]
            raise ValueError(f"{key}: {said}; do {key}={value.strip(chr(39))}") from None


def _load(config: DataConfig, examples: _Examples, data_root: str | Path | None) -> LabelledData:
    """Examples of the data set of a run, as tensors in memory.

    Raises:
        ValueError: one of them cannot be had; the error names the key of the recipe.
    """
    with examples.naming():
        return _loaded(config, examples, data_root)


def _loaded(config: DataConfig, examples: _Examples, data_root: str | Path | None) -> LabelledData:
    first = examples.n_classes
    data = datasets.load(
        config.name,
        split=examples.split,
        default_split=examples.default_split,
        classes=examples.classes,
        subset=examples.subset if first is None else None,
        data_root=data_root,
        mean=config.mean,
        std=config.std,
        pad_to=config.pad_to,
        image_size=config.image_size,
    )
    if first is None:
        return _in_memory(data, config.text_model)
    if first > data.n_classes:
        raise ValueError(
            f"data.n_classes: expected at most the {data.n_classes} source classes, got {first}; "
            f"do data.n_classes={data.n_classes}"
        )
    chosen = data.select(classes=data.classes[:first], subset=examples.subset)
    return _in_memory(chosen, config.text_model)


def _in_memory(
    data: LabelledData | LabelledImages | LabelledTexts, text_model: str | None
) -> LabelledData:
    """Images, or the sentence features of texts."""
    if isinstance(data, datasets.LabelledTexts):
        if text_model is None:
            raise ValueError(
                f"data.name: expected images to train on, got the texts of {data.name}; do "
                f"data.text_model=hf:sentence-transformers/all-MiniLM-L6-v2 or data.name=cifar10"
            )
        return sentence_features(data, text_model)
    if text_model is not None:
        raise ValueError(
            f"data.text_model: expected none for the images of {data.name}, got {text_model!r}; "
            f"do leave it out"
        )
    return data if isinstance(data, LabelledData) else data.in_memory()
