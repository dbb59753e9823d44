"""What the penalty asks of its settings, of a call and of a model's output."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from geocollapse.features import FeatureMap
from geocollapse.features.independence import check_independence
from geocollapse.inputs import Inputs, Take, n_rows, rows_of, tensors_of
from geocollapse.regularizers.complexity.methods import METHODS, NumberOfProbes

_WHOLE = "batch_norm='running', which takes the output from a forward pass of the whole batch"


def check_call(x: Inputs, labels: Tensor | None) -> None:
    """Refuse a call without examples, without gradients, or with labels that are not theirs."""
    if not isinstance(x, Tensor | Mapping):
        raise TypeError(
            f"x: expected a tensor, or tensors by name, got {type(x).__name__}; do "
            f"torch.as_tensor(x)"
        )
    if isinstance(x, Mapping) and "labels" in x:
        raise ValueError(
            "x: expected inputs alone, got 'labels' among them, of which a model makes a loss of "
            "each part of the "
            "batch; do labels = batch.pop('labels'), and the loss from the output"
        )
    tensors = [] if isinstance(x, Tensor) and x.ndim == 0 else tensors_of(x)
    if not tensors or n_rows(x) == 0:
        got = (
            tuple(x.shape)
            if isinstance(x, Tensor)
            else {name: tuple(z.shape) for name, z in x.items()}
        )
        raise ValueError(
            f"x: expected a batch of at least one example, got shape {got}; do drop it"
        )
    if not torch.is_grad_enabled():
        raise RuntimeError(
            "penalty: expected gradients to be on, got torch.no_grad(); do model(x) there, or "
            "geocollapse.measure"
        )
    if labels is not None and (labels.is_floating_point() or labels.shape != (n_rows(x),)):
        raise ValueError(
            f"labels: expected {n_rows(x)} integers, one for each example, got {labels.dtype} of "
            f"shape "
            f"{tuple(labels.shape)}; do pass class numbers"
        )


def check_numbers(
    weight: float, n_probes: NumberOfProbes, batch_fraction: float, every: int
) -> None:
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"weight: expected a number of at least 0, got {weight}; do weight=1e-4")
    if n_probes != "exact" and not _is_count(n_probes):
        raise ValueError(
            f"n_probes: expected at least 1, or 'exact', got {n_probes!r}; do n_probes=1"
        )
    if not 0.0 < batch_fraction <= 1.0:
        raise ValueError(
            f"batch_fraction: expected a share in (0, 1], got {batch_fraction}; do "
            f"batch_fraction=0.25"
        )
    if not _is_count(every):
        raise ValueError(
            f"every: expected a number of steps of at least 1, got {every}; do every=1"
        )


def _is_count(number: object) -> bool:
    return isinstance(number, Integral) and int(number) >= 1


def check_choices(method: str, batch_norm: str, n_probes: NumberOfProbes) -> None:
    if method not in METHODS:
        raise ValueError(
            f"method: expected one of {', '.join(METHODS)}, got {method!r}; do "
            f"method='forward_mode'"
        )
    if method == "finite_difference" and n_probes == "exact":
        raise ValueError(
            "n_probes: expected a number with finite differences, whose error of first order only "
            "random signs average "
            "out, got 'exact'; do method='double_backward'"
        )
    if batch_norm not in ("refuse", "running"):
        raise ValueError(
            f"batch_norm: expected 'refuse' or 'running', got {batch_norm!r}; do "
            f"batch_norm='running'"
        )


def check_output(feature_map: FeatureMap, x: Inputs) -> None:
    """Refuse an output that is not that of the whole batch when it is put together from parts of
    it.
    """

    def enter(inputs: Inputs) -> tuple[Take, Tensor]:
        take, x = feature_map.enter_whole(inputs)
        return lambda z: (_rows(take(z)[1], len(z)), None), x

    with torch.no_grad():
        take, z = enter(rows_of(x, slice(2)))
        take(z)
    check_independence(enter, x, feature_map.model, is_random=True, remedy=f"do {_WHOLE}")


def _rows(output: Any, n_examples: int) -> list[Tensor]:
    """The tensors of a model's output, each with a row for each example."""
    tensors = [leaf for leaf in tree_leaves(output) if leaf is not None]
    for leaf in tensors:
        if not (isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == n_examples):
            got = f"shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ValueError(
                f"model: expected outputs with a row for each of {n_examples} examples, got {got}; "
                f"do switch it off "
                f"(a cache of transformers: model.config.use_cache = False), or {_WHOLE}"
            )
    return tensors
