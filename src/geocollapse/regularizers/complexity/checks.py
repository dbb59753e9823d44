"""Checks of the penalty's settings and of a model's output."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from geocollapse.features import FeatureMap
from geocollapse.features.independence import check_independence
from geocollapse.inputs import Inputs, Take, rows_of
from geocollapse.numerics import is_count
from geocollapse.regularizers.call import check_batch_settings
from geocollapse.regularizers.complexity.methods import METHODS, NumberOfProbes

_WHOLE = "batch_norm='running', which takes the output from a forward pass of the whole batch"


def check_settings(
    method: str, n_probes: NumberOfProbes, batch_fraction: float, batch_norm: str
) -> None:
    """Raise a ValueError for a setting outside its range, or settings that exclude each other."""
    if n_probes != "exact" and not is_count(n_probes):
        raise ValueError(
            f"n_probes: expected at least 1, or 'exact', got {n_probes!r}; do n_probes=1"
        )
    if method not in METHODS:
        raise ValueError(
            f"method: expected one of {', '.join(METHODS)}, got {method!r}; do "
            f"method='forward_mode'"
        )
    if method == "finite_difference" and n_probes == "exact":
        raise ValueError(
            "n_probes: expected a number with finite differences, whose first-order error only "
            "random signs average out, got 'exact'; do method='double_backward'"
        )
    check_batch_settings(batch_fraction, batch_norm, ("refuse", "running"))


def check_output(feature_map: FeatureMap, x: Inputs) -> None:
    """Refuse a model whose output for a batch cannot be put together from parts of the batch.

    Raises:
        ValueError: an output without a row for each example.
        RuntimeError: a module behind the layer that mixes the examples of a batch.
    """

    def enter(inputs: Inputs) -> tuple[Take, Tensor]:
        take, x = feature_map.enter_whole(inputs)
        return lambda z: (_rows(take(z)[1], len(z)), None), x

    with torch.no_grad():
        take, z = enter(rows_of(x, slice(2)))
        take(z)
    check_independence(enter, x, feature_map.model, is_random=True, remedy=f"do {_WHOLE}")


def _rows(output: object, n_examples: int) -> list[Tensor]:
    """The tensors of a model's output, each with a row for each example."""
    tensors = [leaf for leaf in tree_leaves(output) if leaf is not None]
    for leaf in tensors:
        if not (isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == n_examples):
            got = f"shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise ValueError(
                f"model: expected outputs with a row for each of {n_examples} examples, got {got}; "
                f"do switch it off (a cache of transformers: model.config.use_cache = False), or "
                f"{_WHOLE}"
            )
    return tensors
