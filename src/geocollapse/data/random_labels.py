"""Labels drawn at random, which a network can only memorise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from geocollapse.data.labelled import LabelledData


def with_random_labels(data: LabelledData, share: float, *, seed: int = 0) -> LabelledData:
    """Examples of which a share has labels drawn anew from all classes.

    round(share n) examples are chosen at random; the label of each is drawn uniformly from the C
    classes, its own included, so that a share (C - 1)/C of them changes in expectation. Choice and
    labels are a function of (n, C, share, seed) and of nothing else, equal on every machine. A
    larger share of the same seed keeps the random labels of a smaller one. A note of the data says
    how many labels changed.

    Source: Zhang, Bengio, Hardt, Recht, Vinyals (2017), "Understanding deep learning requires
    rethinking generalization", section 2.

    Args:
        data: examples in memory.
        share: of the examples, from 0 to 1.
        seed: of the choice and of the labels.

    Raises:
        ValueError: a share outside [0, 1].

    Examples:
        >>> from geocollapse.data.labelled import About
        >>> about = About("toy", "all", ("a", "b"))
        >>> data = LabelledData(torch.zeros(6, 1), torch.zeros(6, dtype=torch.int64), about)
        >>> int(with_random_labels(data, 0.5).targets.sum()) <= 3
        True
    """
    rows, drawn = random_labels(len(data), data.n_classes, share, seed=seed)
    if len(rows) == 0:
        return data
    targets = data.targets.clone()
    targets[rows.to(targets.device)] = drawn.to(targets.device)
    n_changed = int((targets != data.targets).sum())
    note = (
        f"data: the labels of {len(rows):,} of {len(data):,} examples were drawn at random (seed "
        f"{seed}), {n_changed:,} of them changed"
    )
    about = replace(data.about, notes=(*data.about.notes, note))
    return LabelledData(data.inputs, targets, about)


def random_labels(
    n_examples: int, n_classes: int, share: float, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The rows (m,) whose labels are drawn at random, in ascending order, and those labels (m,).

    Raises:
        ValueError: a share outside [0, 1].

    Examples:
        >>> rows, labels = random_labels(100, 10, 0.2)
        >>> rows.shape, labels.shape
        (torch.Size([20]), torch.Size([20]))
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(
            f"share: expected a number from 0 to 1, got {share}; do share=1.0 for all labels"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n_examples, generator=generator)
    labels = torch.randint(n_classes, (n_examples,), generator=generator)
    rows = order[: round(share * n_examples)].sort().values
    return rows, labels[rows]
