"""Features of a data set without Jacobians, in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geocollapse.complexity.setup import Data, Model, Request, Setup, set_up
from geocollapse.features import Pool, forward_pass
from geocollapse.inputs import move
from geocollapse.measurement.classifier import head_at, match_outputs
from geocollapse.runtime.processes import alone
from geocollapse.store import RowStore
from geocollapse.store.kept import LinearHead


@dataclass(frozen=True, eq=False)
class Features:
    """Features of a data set, in its order.

    Attributes:
        features: (n, p); above 4 GiB in a mapped temporary file.
        labels: (n,).
        layer: the layer of the features.
        class_names: a name for class 0, 1, ..., if the data set has them.
        split: the part of the data set.
        head: the linear classifier that the layer feeds, with an output for each class; None if
            there is none.
    """

    features: Tensor
    labels: Tensor
    layer: str
    class_names: Sequence[str] | None = None
    split: str | None = None
    head: LinearHead | None = None


def collect_features(
    model: Model,
    data: Data,
    *,
    layer: str | None = None,
    classifier: str | None = None,
    pool: Pool | None = None,
    input_layer: str | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
) -> Features:
    """Collect the embedding of every example, in one forward pass of a borrowed model.

    The model runs in evaluation mode. Rows are in the order of the data, whatever the order of
    reading, so that those of two models on the same data correspond. Cost: one forward pass and the
    memory of the features.

    Args:
        model: a module, or a callable from inputs to features (n, p).
        data: as ``geocollapse.measure`` takes it.
        layer: ``NAME``, ``NAME:in``, ``""``, or None for the input of the classifier.
        classifier: name of the linear classifier; None to look for it.
        pool: ``mean``, ``cls`` or ``last`` of a sequence's tokens, None to flatten.
        input_layer: the layer that embeds integer inputs, as for ``geocollapse.measure``.
        autocast: ``torch.bfloat16`` or ``torch.float16``, as for ``geocollapse.measure``.
        batch_size: examples that go through the model together.

    Raises:
        ValueError, RuntimeError: as ``geocollapse.measure``: an unknown layer, an ambiguous
            embedding, data without labels, a model that mixes its examples.

    Examples:
        >>> model = torch.nn.Linear(4, 2)
        >>> found = collect_features(model, (torch.randn(6, 4), torch.arange(6) % 2))
        >>> found.features.shape, found.layer
        (torch.Size([6, 4]), ':in')
    """
    request = Request(
        layer=layer,
        classifier=classifier,
        pool=pool,
        input_layer=input_layer,
        autocast=autocast,
        batch_size=batch_size,
    )
    with alone(), set_up(model, data, request) as setup, torch.no_grad():
        examples = setup.examples
        store = RowStore(examples.size)
        labels = RowStore(examples.size)
        for batch in examples.batches():
            rows = examples.rows(batch)
            inputs = move(batch.inputs, setup.model)
            with forward_pass(inputs):
                take, x = setup.feature_map.enter(inputs)
                store.write(rows, take(x)[0][0])
            labels.write(rows, examples.labels_of(batch).cpu())
        about = examples.about
        head = _head(setup)
    return Features(store.rows(), labels.rows(), setup.layers[0], about.classes, about.split, head)


def _head(setup: Setup) -> LinearHead | None:
    """A copy of the classifier that the layer feeds."""
    match_outputs(setup)
    layer = setup.feature_map.layers[0]
    is_named = setup.request.classifier is not None
    head, _ = head_at(layer, setup.feature_map, setup.embedding, is_named=is_named)
    if head is None:
        return None
    return LinearHead(head.weight.clone(), None if head.bias is None else head.bias.clone())
