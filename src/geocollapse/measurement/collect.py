"""The features of a data set alone: one forward pass, no Jacobians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geocollapse.batches import as_examples
from geocollapse.features import FeatureMap, Pool, find_embedding
from geocollapse.features.borrow import borrowed
from geocollapse.features.entry import find_input_layer
from geocollapse.inputs import move
from geocollapse.store import RowStore


@dataclass(frozen=True, eq=False)
class Features:
    """Features (n, p) and labels (n,) of a data set, in its order, and the layer they were taken
    from.
    """

    features: Tensor
    labels: Tensor
    layer: str


def collect_features(
    model: nn.Module,
    data: Any,
    *,
    layer: str | None = None,
    classifier: str | None = None,
    pool: Pool | None = None,
    input_layer: str | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int | None = None,
) -> Features:
    """Send every example through a borrowed model once, in evaluation mode, and keep its embedding.

    Cost: one forward pass and the memory of the features.

    Args:
        model: a module.
        data: as ``geocollapse.measure`` takes it.
        layer: ``NAME``, ``NAME:in``, ``""``, or None for the input of the classifier.
        classifier: name of the linear classifier; None to look for it.
        pool: ``mean``, ``cls`` or ``last`` of a sequence's tokens, None to flatten.
        input_layer: the layer that embeds integer inputs, as for ``geocollapse.measure``.
        autocast: ``torch.bfloat16`` or ``torch.float16``, as for ``geocollapse.measure``.
        batch_size: examples that go through the model together.

    Raises:
        ValueError: an unknown layer, an ambiguous embedding, data without labels.

    Examples:
        >>> found = collect_features(nn.Linear(4, 2), (torch.randn(6, 4), torch.arange(6) % 2))
        >>> found.features.shape, found.layer
        (torch.Size([6, 4]), ':in')
    """
    examples = as_examples(data, batch_size=batch_size)
    store, labels = RowStore(None), []
    with borrowed(model), torch.no_grad():
        first = move(examples.peek(), model)
        embedding = find_embedding(model, first, layer=layer, classifier=classifier)
        feature_map = FeatureMap(
            model,
            [embedding.layer],
            pool,
            find_input_layer(model, first, input_layer),
            autocast=autocast,
        )
        for batch in examples.batches():
            if batch.labels is None:
                raise ValueError(
                    "data: expected batches with labels, got inputs alone; do pass (inputs, labels)"
                )
            store.write(batch.indices, feature_map(move(batch.inputs, model)))
            labels.append(batch.labels.cpu())
    return Features(store.rows(), torch.cat(labels), str(embedding.layer))
