"""Accuracy of a linear probe and of nearest neighbours that learn from all labels but a test part.

What few labels are compared with.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from geocollapse.arrays import Array, Labels, as_tensor, labelled_arrays, row_slices
from geocollapse.collapse.labelled import check_two_labels
from geocollapse.estimate import Estimate
from geocollapse.transfer.deciding import TIE
from geocollapse.transfer.neighbours import wins
from geocollapse.transfer.probes import SOLVED_TIE

FullDataClassifier = Literal["linear_probe", "logistic_probe", "knn"]

N_NEIGHBOURS = 5
MOST_PRODUCTS = 10_000**2 * 512  # n^2 p: more examples than that are left out
PENALTIES = tuple(10.0**power for power in range(-4, 3))  # of the mean squared length
INVERSE_PENALTIES = (1.0, 10.0, 100.0, 1000.0)  # C of the logistic probe
MOST_STEPS = 200
LOGISTIC_TIE = 1e-4  # of the largest score: the tolerance of the solver


@dataclass(frozen=True, repr=False)
class FullDataAccuracy(Estimate):
    """The share of test examples that are classified correctly, with Wilson's interval.

    Source: Wilson (1927), eq. 1.

    Attributes:
        n_train: examples that the classifier learned from.
    """

    n_train: int = 0

    @property
    def speaks_about(self) -> str:
        """What the interval is about, in words."""
        return "further examples of these classes, classified by the same fit"

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided confidence interval at ``level``, within 0 and 1."""
        z = Estimate(0.0, 1.0, n_samples=1, scale="linear").interval(level)[1]
        n = self.n_samples
        middle = (self.value + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.hypot(self.stderr, z / (2 * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class _Split:
    """Training and test examples; features are centred on the mean of the training part."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def size(self) -> float:
        """Mean squared length of the training features; 1 where all are equal."""
        return float(self.x_train.square().sum(dim=1).mean()) or 1.0


def full_data_accuracy(
    features: Array,
    labels: Labels,
    *,
    classifier: FullDataClassifier = "linear_probe",
    test: Array | None = None,
    test_share: float = 0.2,
    seed: int = 0,
) -> FullDataAccuracy:
    """Accuracy over all classes of a classifier that learns from all labels but a test part.

        linear_probe:    ridge regression of one-vs-rest targets with intercept; of 7 penalties,
                         1e-4 to 100 times the mean squared length of the centred features, the one
                         of least leave-one-out error on the training part
        logistic_probe:  multinomial logistic regression; C of 1, 10, 100 and 1000 for features of
                         mean squared length 1, the best on a fifth of the training part
        knn:             the vote of the 5 nearest training examples, as in ``NearestNeighbours``

    The split is stratified, and depends on labels and seed alone, so two models see the same one. A
    tie between classes is an error. Above n^2 p = 10,000^2 x 512 a seeded stratified part of the
    examples is used, so that an answer takes seconds (the logistic probe: up to a minute):
    ``n_train`` and ``n_samples`` say how many. Invariant under translation, rotation and scaling of
    the features.

    Args:
        features: (n, p).
        labels: (n,) integers, or names of classes.
        classifier: a name above.
        test: True for the examples to test on (n,); by default a share of each class.
        test_share: that share.
        seed: of the split.

    Returns:
        An Estimate over the test examples: ``values`` are 1 where one is right, ``indices`` their
        positions; the interval is Wilson's.

    Raises:
        ValueError: fewer than two classes, a class with one example, a test part that is empty or
            everything, or a name that does not exist.

    Examples:
        >>> y = torch.arange(100) % 5
        >>> full_data_accuracy(torch.nn.functional.one_hot(y).float(), y).value
        1.0
    """
    x, y = labelled_arrays(features, labels)
    if classifier not in get_args(FullDataClassifier):
        raise ValueError(
            f"classifier: expected {' or '.join(get_args(FullDataClassifier))}, got "
            f"{classifier!r}; do classifier='linear_probe'"
        )
    check_two_labels(y.unique().tolist())
    train, tested = _parts(y, test, test_share, x.shape[1], seed)
    centre = x[train].double().mean(dim=0)
    parts = _Split(x[train].double() - centre, y[train], x[tested].double() - centre, y[tested])
    found = {"linear_probe": _ridge, "logistic_probe": _logistic, "knn": _neighbours}
    right = found[classifier](parts).double().cpu()
    value = float(right.mean())
    return FullDataAccuracy(
        value=value,
        stderr=math.sqrt(value * (1 - value) / len(right)),
        n_samples=len(right),
        estimator=classifier,
        population="distribution",
        scale="linear",
        values=right,
        indices=tested,
        n_train=len(train),
    )


def _parts(
    labels: Tensor, test: Array | None, test_share: float, p: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Positions of the training and the test examples, ascending."""
    most = math.isqrt(MOST_PRODUCTS // p)
    if test is None:
        return stratified_split(labels, test_share, most=most, seed=seed)
    is_test = as_tensor("test", test)
    if is_test.dtype != torch.bool or is_test.shape != labels.shape:
        raise ValueError(
            f"test: expected one bool for each of {len(labels)} examples, got {is_test.dtype} of "
            f"shape {tuple(is_test.shape)}; do test=torch.arange(n) >= n_train"
        )
    if is_test.all() or not is_test.any():
        raise ValueError(
            f"test: expected examples to learn from and to test on, got {int(is_test.sum())} of "
            f"{len(labels)} to test on; do test=None"
        )
    return (~is_test).nonzero().flatten().cpu(), is_test.nonzero().flatten().cpu()


def stratified_split(
    labels: Tensor, test_share: float, *, most: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Split the examples of each class at random, as a function of labels and seed alone.

    Args:
        labels: (n,) integers, or names of classes.
        test_share: share of each class that is tested, at least one example and not all.
        most: examples that are used in all, if at least two of each class.
        seed: of the draw.

    Returns:
        Positions of the training and the test examples, ascending.

    Raises:
        ValueError: a class with one example, or a share that is not between 0 and 1.
    """
    if not 0.0 < test_share < 1.0:
        raise ValueError(
            f"test_share: expected a number between 0 and 1, got {test_share!r}; do test_share=0.2"
        )
    classes, positions, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    if int(counts.min()) < 2:
        raise ValueError(
            f"labels: expected at least 2 examples of each class, got 1 of class "
            f"{int(classes[counts.argmin()])}; do drop the class"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[positions[order].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[positions[order]]
    used = (counts * min(1.0, most / len(labels))).long().clamp(min=2)
    tested = (used * test_share).round().long().clamp(min=1)
    n_train = (used - tested).clamp(min=1)
    in_training = rank < n_train[positions[order]]
    is_used = rank < used[positions[order]]
    return order[in_training].sort().values, order[is_used & ~in_training].sort().values


def _ridge(parts: _Split) -> Tensor:
    from sklearn.linear_model import RidgeCV

    classes, own = _classes_of(parts)
    one_hot = torch.searchsorted(classes, parts.y_train)[:, None] == torch.arange(len(classes))
    probe = RidgeCV(alphas=[penalty * parts.size for penalty in PENALTIES])
    probe.fit(parts.x_train.cpu().numpy(), 2.0 * one_hot.double().numpy() - 1.0)
    return _is_largest(torch.from_numpy(probe.predict(parts.x_test.cpu().numpy())), own)


def _logistic(parts: _Split) -> Tensor:
    """Right answers of the probe whose C does best on a fifth of the training part."""
    inner = stratified_split(parts.y_train, 0.2, most=len(parts.y_train), seed=0)
    tried = _Split(
        parts.x_train[inner[0]],
        parts.y_train[inner[0]],
        parts.x_train[inner[1]],
        parts.y_train[inner[1]],
    )
    best = max(INVERSE_PENALTIES, key=lambda c: float(_of_penalty(tried, c).double().mean()))
    return _of_penalty(parts, best)


def _of_penalty(parts: _Split, inverse_penalty: float) -> Tensor:
    """Right answers of logistic regression at one C; it may stop before it has converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scale = math.sqrt(parts.size)
    probe = LogisticRegression(C=inverse_penalty, max_iter=MOST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit((parts.x_train / scale).cpu().numpy(), parts.y_train.cpu().numpy())
    scores = torch.from_numpy(probe.decision_function((parts.x_test / scale).cpu().numpy()))
    if scores.ndim == 1:
        scores = torch.stack([-scores, scores], dim=1)
    return _is_largest(scores, _classes_of(parts)[1], LOGISTIC_TIE)


def _neighbours(parts: _Split) -> Tensor:
    classes, own = _classes_of(parts)
    members = (parts.y_train.cpu()[:, None] == classes).to(parts.x_train.device)
    is_own = (own[:, None] == torch.arange(len(classes))).to(parts.x_train.device)
    squares = parts.x_train.square().sum(dim=1) / 2
    found = []
    for part in row_slices(len(own), len(squares) // 8, parts.x_train.device):
        nearness = parts.x_test[part] @ parts.x_train.T - squares
        rounding = TIE * nearness.abs().amax()
        found.append(wins(nearness, members, is_own[part], N_NEIGHBOURS, rounding))
    return torch.cat(found)


def _classes_of(parts: _Split) -> tuple[Tensor, Tensor]:
    """Classes of the training part, and the number of each test example's own among them.

    A class that was not trained on has the number C, and is never right.
    """
    classes = parts.y_train.cpu().unique()
    y = parts.y_test.cpu()
    place = torch.searchsorted(classes, y).clamp(max=len(classes) - 1)
    return classes, torch.where(classes[place] == y, place, len(classes))


def _is_largest(scores: Tensor, own: Tensor, tie: float = SOLVED_TIE) -> Tensor:
    """True where the own class has the one largest score (m,); ties by rounding are errors."""
    is_known = own < scores.shape[1]
    taken = scores.gather(1, own.clamp(max=scores.shape[1] - 1)[:, None])
    rounding = tie * max(1.0, float(scores.abs().max()))
    return ((scores >= taken - rounding).sum(dim=1) == 1) & is_known
