"""Few-shot accuracy of features over seeded episodes, by nearest mean or a linear probe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import TypedDict

from geocollapse.arrays import Array, labelled_arrays, row_slices
from geocollapse.estimate import Estimate, IntervalDict

Classifier = Literal["nearest_mean", "linear_probe"]

# penalty of the linear probe, in units of the mean squared length of centred support features
RIDGE = 1.0
TIE = 1e-12  # of an episode's largest score: below it lies rounding


class TransferDict(TypedDict):
    """Few-shot accuracies by classifier and number of shots.

    Attributes:
        accuracy: mean over episodes, by classifier and number of shots.
        predicted_error: error of the nearest mean predicted from the geometry, by number of shots.
        predicted_error_intervals: the predicted errors with intervals; empty where there are none.
        n_way: classes of an episode.
        n_query: examples of each class to classify.
        n_episodes: number of episodes.
        n_classes: classes that episodes draw from.
        warnings: what a reader must know.
    """

    accuracy: dict[str, dict[str, IntervalDict]]
    predicted_error: dict[str, float | None]
    predicted_error_intervals: dict[str, IntervalDict]
    n_way: int
    n_query: int
    n_episodes: int
    n_classes: int
    warnings: list[str]


def few_shot_accuracy(
    features: Array,
    labels: Array,
    *,
    n_way: int = 5,
    k_shot: int = 5,
    n_query: int = 15,
    n_episodes: int = 600,
    seed: int = 0,
    classifier: Classifier = "nearest_mean",
) -> Estimate:
    """N-way k-shot accuracy of fixed features, averaged over seeded episodes.

    An episode draws N classes, and from each k labelled examples and n_query others, all without
    replacement.

        nearest_mean:  argmin_c ||f(x) - mean of c's k examples||, a tie counts as an error
        linear_probe:  ridge regression of one-vs-rest targets +-1 with intercept; the penalty is
                       RIDGE times the mean squared length of the centred support features, so
                       that scaling the features changes nothing

    The episodes depend on the labels, the sizes and the seed alone. Two models see the same ones,
    so compare them by the paired difference of ``values``. The interval is over episodes and takes
    the features as given. Invariant under translation, rotation and scaling of the features. Cost:
    O(episodes N (k + n_query) p), memory bounded.

    Source: Snell, Swersky, Zemel (2017), eq. 1 and 2; Galanti, György, Hutter (2022), section 2.

    Args:
        features: (n, p).
        labels: (n,) integers.
        n_way: classes N of an episode.
        k_shot: labelled examples k of each.
        n_query: examples of each that are classified.
        n_episodes: episodes, at least 2.
        seed: of the episodes; the global random state is left alone.
        classifier: ``nearest_mean`` or ``linear_probe``.

    Returns:
        An Estimate on the linear scale, ``values`` (n_episodes,) in float64.

    Raises:
        ValueError: more ways than classes, a class with too few examples (it is named), or a count
            that is too small.
        TypeError: labels that are not integers.

    Examples:
        >>> x = torch.arange(100.0)[:, None] // 20
        >>> float(few_shot_accuracy(x, torch.arange(100) // 20, n_episodes=10, k_shot=2))
        1.0
    """
    x, y = labelled_arrays(features, labels)
    sizes = EpisodeSizes(n_way, k_shot, n_query, n_episodes)
    rows = draw_episodes(y, sizes, seed)
    if classifier not in _CLASSIFIERS:
        raise ValueError(
            f"classifier: expected {' or '.join(_CLASSIFIERS)}, got {classifier!r}; do "
            "classifier='nearest_mean'"
        )
    scores = _CLASSIFIERS[classifier]
    values = torch.cat([_accuracies(scores(*parts)) for parts in _gathered(x, rows, k_shot)]).cpu()
    return Estimate(
        value=float(values.mean()),
        stderr=float(values.std()) / math.sqrt(n_episodes),
        n_samples=n_episodes,
        estimator=classifier,
        dof=n_episodes - 1,
        scale="linear",
        values=values,
    )


def transfer(
    features: Array,
    labels: Array,
    *,
    n_way: int = 5,
    k_shots: Sequence[int] = (1, 5),
    n_query: int = 15,
    n_episodes: int = 600,
    seed: int = 0,
) -> TransferDict:
    """``few_shot_accuracy`` of both classifiers for several numbers of shots, as strict JSON."""
    from geocollapse.transfer.prediction import prediction  # which draws the episodes of this file

    def interval(classifier: Classifier, k_shot: int) -> IntervalDict:
        return few_shot_accuracy(
            features,
            labels,
            n_way=n_way,
            k_shot=k_shot,
            n_query=n_query,
            n_episodes=n_episodes,
            seed=seed,
            classifier=classifier,
        ).to_interval_dict()

    predicted = prediction(features, labels, n_way, k_shots, n_episodes, seed)
    return {
        "accuracy": {name: {str(k): interval(name, k) for k in k_shots} for name in _CLASSIFIERS},
        "predicted_error": predicted.values,
        "predicted_error_intervals": predicted.intervals,
        "n_way": n_way,
        "n_query": n_query,
        "n_episodes": n_episodes,
        "n_classes": len(labelled_arrays(features, labels)[1].unique()),
        "warnings": list(predicted.warnings),
    }


@dataclass(frozen=True)
class EpisodeSizes:
    """Numbers of classes, examples and episodes; ``draw_episodes`` checks them against labels."""

    n_way: int
    k_shot: int
    n_query: int
    n_episodes: int

    def __post_init__(self) -> None:
        least = {"n_way": 2, "k_shot": 1, "n_query": 1, "n_episodes": 2}
        for name, smallest in least.items():
            given = getattr(self, name)
            if not isinstance(given, Integral) or int(given) < smallest:
                raise ValueError(
                    f"{name}: expected a whole number of at least {smallest}, got {given!r}; do "
                    f"{name}={smallest}"
                )


def draw_episodes(labels: Tensor, sizes: EpisodeSizes, seed: int) -> Tensor:
    """Draw the examples of each episode, as a function of labels, sizes and seed alone.

    Returns:
        Positions (n_episodes, n_way, k_shot + n_query); the first k_shot of each class are its
        labelled examples.

    Raises:
        ValueError: more ways than classes, or a class with too few examples.
    """
    order = labels.cpu().argsort(stable=True)
    classes, counts = labels.cpu().unique(return_counts=True)
    _check_sizes(classes, counts, sizes)
    generator = torch.Generator().manual_seed(seed)
    shape = (sizes.n_episodes, len(classes))
    keys = torch.rand(shape, generator=generator, dtype=torch.float64)
    ways = keys.argsort(dim=1)[:, : sizes.n_way]
    starts = counts.cumsum(0) - counts
    places = _distinct(counts[ways], sizes.k_shot + sizes.n_query, generator)
    return order[starts[ways][..., None] + places]


def _distinct(counts: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k distinct numbers below each of ``counts``, in random order: (*counts.shape, k).

    Draw j is uniform over the numbers that are left: it is shifted past the smaller ones drawn
    before, in ascending order.
    """
    drawn: list[Tensor] = []
    taken = counts.new_zeros(*counts.shape, 0)
    for j in range(k):
        uniform = torch.rand(counts.shape, generator=generator, dtype=torch.float64)
        number = (uniform * (counts - j)).long()
        for earlier in taken.unbind(-1):
            number += number >= earlier
        drawn.append(number)
        taken = torch.cat([taken, number[..., None]], dim=-1).sort(dim=-1).values
    return torch.stack(drawn, dim=-1)


def _gathered(x: Tensor, rows: Tensor, k_shot: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield support (e, n_way, k, p) and query (e, n_way, q, p) of chunks of episodes in float64.

    They are relative to one example: any point near the data would do as origin, and an example
    makes equal features exactly 0. Chunks that fit the cache are three times as fast as 32 MiB.
    """
    rows = rows.to(x.device)
    origin = x[rows[0, 0, 0]].double()
    for part in row_slices(len(rows), rows[0].numel() * x.shape[1], x.device):
        yield (
            _relative(x, rows[part, :, :k_shot], origin),
            _relative(x, rows[part, :, k_shot:], origin),
        )


def _relative(x: Tensor, rows: Tensor, origin: Tensor) -> Tensor:
    taken = x.index_select(0, rows.flatten()).double().sub_(origin)
    return taken.view(*rows.shape, -1)


def _nearest_mean(support: Tensor, query: Tensor) -> Tensor:
    """Scores (e, n_way, q, n_way): <x, m_c> - ||m_c||^2/2, largest for the nearest mean."""
    means = support.mean(dim=2)
    flat = query.flatten(1, 2)
    scores = flat @ means.mT - means.square().sum(dim=2)[:, None, :] / 2
    return scores.view(*query.shape[:3], -1)


def _linear_probe(support: Tensor, query: Tensor) -> Tensor:
    """Scores (e, n_way, q, n_way) of ridge regression, solved in the space of the examples.

        A = (Z Z^T + alpha I)^-1 Y,  score = (x - z_0)^T Z^T A + y_0,

    Z and Y centred, alpha = RIDGE tr(Z Z^T)/n, n = n_way k labelled examples.
    """
    n_way, k_shot = support.shape[1:3]
    z = support.flatten(1, 2)
    centre = z.mean(dim=1, keepdim=True)
    z = z - centre
    flat = query.flatten(1, 2) - centre
    one_hot = torch.eye(n_way, dtype=z.dtype, device=z.device).repeat_interleave(k_shot, dim=0)
    targets = 2.0 * one_hot - 1.0
    offset = targets.mean(dim=0)
    gram = z @ z.mT
    alpha = RIDGE * gram.diagonal(dim1=1, dim2=2).mean(dim=1)
    # where all labelled features are equal, every score is y_0 for any alpha
    alpha = torch.where(alpha > 0, alpha, torch.ones_like(alpha))
    gram.diagonal(dim1=1, dim2=2).add_(alpha[:, None])
    weights = torch.linalg.solve(gram, (targets - offset).expand(len(z), -1, -1))
    return (flat @ (z.mT @ weights) + offset).view(*query.shape[:3], -1)


_CLASSIFIERS: dict[Classifier, Callable[[Tensor, Tensor], Tensor]] = {
    "nearest_mean": _nearest_mean,
    "linear_probe": _linear_probe,
}


def _accuracies(scores: Tensor) -> Tensor:
    """Share of each episode's queries whose own class has the one largest score: (e,) float64.

    Scores that differ by rounding alone are a tie.
    """
    own = scores.diagonal(dim1=1, dim2=3).mT  # (e, n_way, q)
    rounding = TIE * scores.abs().amax(dim=(1, 2, 3), keepdim=True)
    right = (scores >= own[..., None] - rounding).sum(dim=3) == 1
    return right.flatten(1).double().mean(dim=1)


def _check_sizes(classes: Tensor, counts: Tensor, sizes: EpisodeSizes) -> None:
    if len(classes) < 2:
        found = f"label {int(classes[0])} only" if len(classes) else "no examples"
        raise ValueError(
            f"labels: expected at least two classes, got {found}; do pass examples of another class"
        )
    if sizes.n_way > len(classes):
        raise ValueError(
            f"n_way: expected at most {len(classes)} classes, got {sizes.n_way}; do "
            f"n_way={len(classes)}"
        )
    smallest = int(counts.argmin())
    available = int(counts[smallest])
    needed = sizes.k_shot + sizes.n_query
    if available < needed:
        remedy = _remedy(available, sizes)
        raise ValueError(
            f"n_query: expected k_shot + n_query = {needed} examples of each class, "
            f"got {available} of class {int(classes[smallest])}; do {remedy}"
        )


def _remedy(available: int, sizes: EpisodeSizes) -> str:
    """Suggest what to do with a class of ``available`` examples."""
    if available > sizes.k_shot:
        return f"n_query={available - sizes.k_shot}"
    if available > 1:
        return f"k_shot=1 and n_query={min(sizes.n_query, available - 1)}, or drop the class"
    return "drop the class"
