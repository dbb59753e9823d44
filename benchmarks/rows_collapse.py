"""Comparisons of the measures of collapse and transfer with plain code on the same features."""

from __future__ import annotations

import math

import baselines
import torch
from harness import Row, Work
from torch import Tensor

import geocollapse as geo
from geocollapse.collapse import ClassStatistics, mean_cdnv
from geocollapse.transfer.episodes import EpisodeSizes, draw_episodes

_TWO_PASS = "float32 two-pass baseline, pinv"


def _features(
    n: int = 50_000,
    p: int = 512,
    n_classes: int = 100,
    dtype: torch.dtype = torch.float32,
    spread: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Gaussian classes of unit variance around Gaussian means of standard deviation ``spread``."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, n_classes, (n,), generator=generator)
    means = torch.randn(n_classes, p, generator=generator)
    return (spread * means[labels] + torch.randn(n, p, generator=generator)).to(dtype), labels


def _kept(dtype: torch.dtype) -> tuple[Work, Work]:
    x, y = _features(dtype=dtype)
    return lambda: geo.neural_collapse(x, y), lambda: baselines.two_pass(x, y, 100)


def _same_cdnv_and_nc1(ours: geo.NeuralCollapse, theirs: tuple[Tensor, Tensor]) -> None:
    for found, expected in zip((ours.cdnv, ours.nc1), theirs):
        if not math.isclose(found, float(expected), rel_tol=1e-2):
            raise ValueError(f"expected the same CDNV and NC1, got {ours} and {theirs}")


def _streaming() -> tuple[Work, Work]:
    x, y = _features()

    def ours() -> dict[str, Tensor]:
        metric = geo.CollapseMetric(num_classes=100)
        for a, b in zip(x.split(512), y.split(512)):
            metric.update(a, b)
        return metric.compute()

    return ours, lambda: baselines.two_pass(x, y, 100)


def _cdnv() -> tuple[Work, Work]:
    x, y = _features()
    return lambda: geo.cdnv(x, y), lambda: baselines.two_pass(x, y, 100)


def _published_cdnv() -> tuple[Work, Work]:
    x, y = _features()
    return lambda: geo.cdnv(x, y), lambda: _kowalski_cdnv(x, y)


def _kowalski_cdnv(x: Tensor, y: Tensor) -> Tensor:
    from kowalski import to_per_class_list
    from kowalski.neural_collapse import class_distance_normalized_variance

    return class_distance_normalized_variance(to_per_class_list(x, y))


def _right_where_it_is_wrong(ours: Tensor, theirs: Tensor) -> None:
    """Check that both are right near 0, and only ours with the features moved by 10,000.

    Theirs is lost there, from float32 means and their Gram matrix.
    """
    x, y = _features()
    moved = x + 1e4
    expected = float(geo.cdnv(moved.double(), y))

    def error(value: Tensor) -> float:
        return abs(float(value) / expected - 1.0)

    near = [error(ours), error(theirs)]
    lost = error(_kowalski_cdnv(moved, y))
    if max(near) > 1e-3 or error(geo.cdnv(moved, y)) > 1e-8 or not lost > 0.01:
        raise ValueError(
            f"expected equal values near 0 and ours right far from it, got {near} and {lost}"
        )


def _many_classes(n_classes: int = 20_000, p: int = 1024) -> tuple[Work, Work]:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(n_classes, p, generator=generator, dtype=torch.float64)
    counts = torch.full((n_classes,), 50.0, dtype=torch.float64)
    origin = torch.zeros(p).double()
    statistics = ClassStatistics(torch.arange(n_classes), counts, means, p * counts, origin)
    return lambda: mean_cdnv(statistics), lambda: means @ means.T


def _directional() -> tuple[Work, Work]:
    x, y = _features()
    return lambda: geo.directional_cdnv(x, y), lambda: baselines.class_covariances(x, y, 100)


def _episodes() -> tuple[Work, Work]:
    x, y = _features(10_000, 512, 20)

    def ours() -> geo.Estimate:
        return geo.few_shot_accuracy(x, y, n_episodes=1000)

    return ours, lambda: baselines.episode_loop(x, y, 1000)


def _same_episodes() -> tuple[Work, Work]:
    from easyfsl.methods import PrototypicalNetworks

    x, y = _features(10_000, 512, 20)
    x = x + 4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))  # some are wrong
    rows = draw_episodes(y, EpisodeSizes(5, 5, 15, 1000), 0).rows
    support_labels = torch.arange(5).repeat_interleave(5)
    query_labels = torch.arange(5).repeat_interleave(15)
    network = PrototypicalNetworks(torch.nn.Identity())

    def theirs() -> Tensor:
        values = []
        for taken in rows:
            network.process_support_set(x[taken[:, :5].flatten()], support_labels)
            predicted = network(x[taken[:, 5:].flatten()]).argmax(dim=1)
            values.append((predicted == query_labels).double().mean())
        return torch.stack(values)

    return lambda: geo.few_shot_accuracy(x, y, n_episodes=1000), theirs


def _same_accuracy(ours: geo.FewShotAccuracy, theirs: Tensor) -> None:
    if abs(ours.value - float(theirs.mean())) > 1e-4 or not 0.5 < ours.value < 0.99:
        raise ValueError(f"expected the same accuracy, got {ours.value} and {theirs.mean()}")


def _predicted_error() -> tuple[Work, Work]:
    x, y = _features(10_000, spread=0.15)
    return lambda: geo.predicted_error(x, y), lambda: geo.few_shot_accuracy(x, y)


def _same_error(ours: geo.Estimate, theirs: geo.Estimate) -> None:
    if abs(ours.value + theirs.value - 1.0) > 0.02:
        raise ValueError(f"expected one error and its accuracy, got {ours} and {theirs}")


ROWS = (
    Row(
        name="collapse-kept",
        work="neural_collapse, 50,000 x 512, C = 100",
        against=f"{_TWO_PASS}, CDNV and NC1 only, 1 thread",
        reach=1.2,
        prepare=lambda: _kept(torch.float32),
        repeats=9,
        check=_same_cdnv_and_nc1,
        single=True,
    ),
    Row(
        name="collapse-streaming",
        work="CollapseMetric, batches of 512 of the same",
        against=_TWO_PASS,
        reach=0.75,
        prepare=_streaming,
    ),
    Row(
        name="collapse-float64",
        work="neural_collapse, float64 features",
        against="float64 two-pass baseline, CDNV and NC1 only, 1 thread",
        reach=0.8,
        prepare=lambda: _kept(torch.float64),
        repeats=9,
        check=_same_cdnv_and_nc1,
        single=True,
    ),
    Row(
        name="cdnv",
        work="CDNV alone",
        against=_TWO_PASS,
        reach=0.25,
        prepare=_cdnv,
    ),
    Row(
        name="cdnv-kowalski",
        work="CDNV alone",
        against="kowalski 0.0.2 (right near 0 only)",
        reach=1.0,
        prepare=_published_cdnv,
        check=_right_where_it_is_wrong,
    ),
    Row(
        name="cdnv-20000",
        work="CDNV, 20,000 class means x 1,024",
        against="one full GEMM of the means",
        reach=0.6,
        prepare=_many_classes,
        repeats=3,
    ),
    Row(
        name="directional",
        work="directional CDNV, all pairs",
        against="forming the class covariances",
        reach=0.3,
        prepare=_directional,
    ),
    Row(
        name="episodes",
        work="1,000 5-way 5-shot episodes, 10,000 x 512",
        against="loop over episodes",
        reach=0.25,
        prepare=_episodes,
    ),
    Row(
        name="episodes-easyfsl",
        work="1,000 5-way 5-shot episodes, 10,000 x 512",
        against="easyfsl 1.5.0 on the same episodes",
        reach=1.0,
        prepare=_same_episodes,
        check=_same_accuracy,
    ),
    Row(
        name="predicted-error",
        work="predicted 5-way 5-shot error with interval, 10,000 x 512, C = 100",
        against="600 episodes of the same, without other samples in their interval",
        reach=60.0,
        prepare=_predicted_error,
        repeats=3,
        check=_same_error,
    ),
)
