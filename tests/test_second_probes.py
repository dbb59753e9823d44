"""Standard errors from second probes: coverage with unequal classes and heavy noise of the probes.

The probes are simulated: one of ||J||_F^2 with a Jacobian of rank k is ||J||_F^2 chi^2_k / k.
"""

import math

import pytest
import torch

from geocollapse.collapse import geometric_collapse
from geocollapse.complexity.means import dataset_complexity, norms_by_class
from geocollapse.complexity.probing import LARGE
from geocollapse.complexity.schedule import SECOND_PROBES, SECOND_PROBES_PER_CLASS
from geocollapse.jacobian import SquaredNorms


def simulated(values, labels, ranks, generator):
    """One probe of each example, and second ones as the schedule gives them."""
    n = len(values)
    order = torch.randperm(n, generator=generator)
    n_classes = len(labels.unique())
    turns = torch.empty(n, dtype=torch.int64)
    for label in range(n_classes):
        rows = order[labels[order] == label]
        turns[rows] = torch.arange(len(rows))
    n_pilot = max(SECOND_PROBES, SECOND_PROBES_PER_CLASS * n_classes)
    pilot = turns.argsort(stable=True)[:n_pilot]
    alpha = (ranks[labels] / 2).double()
    noise = torch.distributions.Gamma(alpha, alpha)
    first, second = (values * noise.sample() for _ in range(2))
    variances = torch.full((n,), math.nan, dtype=torch.float64)
    spread = (first - second).square() / 2
    chosen = first > LARGE * first[pilot].mean()
    chosen[pilot] = False
    known = chosen.clone()
    known[pilot] = True
    variances[known] = spread[known]
    return SquaredNorms(first, variances, torch.ones(n, dtype=torch.int64), chosen=chosen)


def population(sizes, generator, *, sigma=0.3, level=1.0):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    spread = sigma * torch.randn(len(labels), generator=generator, dtype=torch.float64)
    return torch.exp(spread) * level, labels


UNEQUAL = [1820, *[20] * 9]  # ten classes, one of 91 %


@pytest.mark.parametrize("ranks", [[1] + 9 * [64], [64] + 9 * [1], 10 * [1]])
def test_coverage_with_unequal_classes_and_noise_by_class(ranks):
    """Pooled without weights, the error was 0.64 of the true one, and covered 0.80."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    values, labels = population(UNEQUAL, generator)
    truth = float(values.mean())
    counts = dict(enumerate(map(float, UNEQUAL)))
    hits, errors, found = 0, [], []
    for _ in range(600):
        norms = simulated(values, labels, torch.tensor(ranks), generator)
        estimate = dataset_complexity(norms, len(values), labels, counts)
        low, high = estimate.interval()
        hits += low <= truth <= high
        errors.append(estimate.stderr)
        found.append(estimate.value)
    true_error = float(torch.tensor(found).std())
    assert 0.9 <= float(torch.tensor(errors).square().mean().sqrt()) / true_error <= 1.15
    assert hits / 600 >= 0.92


def test_errors_of_classes_are_finite_whatever_their_size():
    """A class of large norms has few random second probes: the ratio rested on 0 to 3 of them."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    sizes = [300, 300, 300]
    labels = torch.repeat_interleave(torch.arange(3), 300)
    level = torch.tensor([1.0, 1.0, 60.0], dtype=torch.float64)[labels]
    values, _ = population(sizes, generator, level=level)
    counts = dict(enumerate(map(float, sizes)))
    means = torch.eye(3, dtype=torch.float64)
    hits = torch.zeros(3)
    for _ in range(300):
        norms = simulated(values, labels, torch.tensor([1, 1, 1]), generator)
        classes = norms_by_class(norms, labels, counts)
        gcol = geometric_collapse(list(classes.values()), means)
        assert 0.0 < gcol.stderr < gcol.value
        for label, estimate in classes.items():
            assert 0.0 < estimate.stderr < estimate.value
            low, high = estimate.interval()
            hits[label] += low <= float(values[labels == label].mean()) <= high
    assert float(hits.min()) / 300 >= 0.92


def test_only_random_second_probes_count():
    """Second probes that were chosen for their size cannot stand for the others."""
    values = torch.cat([torch.ones(80), torch.full((40,), 9.0)]).double()
    variances = torch.full((120,), math.nan, dtype=torch.float64)
    variances[80:] = 4.0
    chosen = torch.arange(120) >= 80
    norms = SquaredNorms(values, variances, torch.ones(120, dtype=torch.int64), chosen=chosen)
    (estimate,) = norms_by_class(norms, torch.zeros(120, dtype=torch.int64), {0: 120}).values()
    assert estimate.stderr == pytest.approx(float(values.std()) / 120**0.5)


def test_a_class_of_one_example_keeps_its_weight():
    """Merged without weights, 200 of 2,001 examples gave 17 % too much."""
    generator = torch.Generator().manual_seed(0)
    values, labels = population([1000, 1000, 1], generator)
    values[-1] = 50.0
    rows = torch.cat([torch.arange(100), torch.arange(1000, 1099), torch.tensor([2000])])
    counts = {0: 1000.0, 1: 1000.0, 2: 1.0}
    exact = SquaredNorms.exact(values)[rows]
    estimate = dataset_complexity(exact, 2001, labels[rows], counts)
    by_hand = 1000 * values[:100].mean() + 1000 * values[1000:1099].mean() + 50.0
    assert estimate.value == pytest.approx(float(by_hand) / 2001, rel=1e-12)
    thin = SquaredNorms(exact.values, torch.full((200,), math.nan), exact.n_probes)
    pooled = dataset_complexity(thin, 2001, labels[rows], counts)
    assert pooled.value == pytest.approx(float(by_hand) / 2001, rel=1e-12)
    assert pooled.stderr > 0.0


def test_the_readings_per_pixel_are_weighted_and_have_errors():
    """The unweighted ratio of sums gave 832 for 140.8."""
    norms = SquaredNorms.exact(
        torch.tensor([1.0, 3.0, 100.0, 104.0], dtype=torch.float64),
        torch.tensor([2.0, 6.0, 1000.0, 1040.0], dtype=torch.float64),
    )
    labels = torch.tensor([0, 0, 1, 1])
    pixel = norms.per_pixel()
    estimate = dataset_complexity(pixel, 102, labels, {0: 90.0, 1: 12.0})
    assert estimate.value == pytest.approx((90 * 4.0 + 12 * 1020.0) / 102)
    assert estimate.stderr > 0.0
