"""Intervals of few-shot accuracy: over episodes, over classes, and of paired differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from reference import transfer as reference

from geocollapse.transfer import few_shot_accuracy, paired_difference
from geocollapse.transfer.across_classes import across_classes

P = 10
N_EACH = 40


def population(n_classes, generator, spread=0.6):
    """Gaussian classes of unequal difficulty: their distance and their width vary."""

    def around_one():
        return torch.exp(0.3 * torch.randn(n_classes, 1, generator=generator))

    means = spread * torch.randn(n_classes, P, generator=generator) * around_one()
    widths = around_one()
    y = torch.arange(n_classes).repeat_interleave(N_EACH)
    return means[y] + widths[y] * torch.randn(len(y), P, generator=generator), y


def accuracy(x, y, *, n_episodes=300, seed=0, n_way=5):
    return few_shot_accuracy(
        x, y, n_way=n_way, k_shot=5, n_query=10, n_episodes=n_episodes, seed=seed
    )


# over classes


@pytest.mark.parametrize(("n_classes", "n_way", "n"), [(6, 5, 40), (12, 4, 100), (60, 3, 30)])
def test_the_error_over_classes_equals_the_loop(n_classes, n_way, n):
    generator = np.random.default_rng(0)
    ways = np.stack([generator.permutation(n_classes)[:n_way] for _ in range(n)])
    effects = generator.normal(size=n_classes)
    values = effects[ways].mean(axis=1) + 0.1 * generator.normal(size=n)
    stderr, dof = across_classes(torch.from_numpy(values), torch.from_numpy(ways), n_classes)
    expected = reference.jackknife_over_classes(values, ways, n_classes)
    assert stderr**2 == pytest.approx(expected, rel=1e-10)
    assert dof == n_classes - 1


def test_additive_effects_of_classes_give_the_error_of_their_mean():
    """Values that are means of one number a class: the error is that of a mean of C numbers."""
    effects = torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    subsets = torch.tensor(list(itertools.combinations(range(9), 4)))
    ways = subsets.repeat(200, 1)  # each subset equally often, so no noise
    stderr, dof = across_classes(effects[ways].mean(dim=1), ways, 9)
    assert stderr == pytest.approx(float(effects.std()) / 3, rel=0.01)
    assert dof == 8


def test_equal_classes_leave_the_error_over_episodes():
    generator = torch.Generator().manual_seed(0)
    ways = torch.rand(4000, 20, generator=generator).argsort(dim=1)[:, :5]
    values = torch.rand(4000, dtype=torch.float64, generator=generator)
    stderr, _ = across_classes(values, ways, 20)
    over_episodes = float(values.std()) / math.sqrt(4000)
    assert over_episodes <= stderr < 3 * over_episodes


def test_the_interval_over_classes_is_undefined_where_episodes_hold_all():
    x, y = population(5, torch.Generator().manual_seed(0))
    found = accuracy(x, y, n_episodes=10)
    assert math.isnan(found.classes_stderr)
    assert all(math.isnan(end) for end in found.classes_interval())
    assert found.to_interval_dict()["classes_ci95"] == (None, None)


def test_the_interval_over_classes_is_wider_and_shrinks_with_classes():
    def half(n_classes):
        x, y = population(n_classes, torch.Generator().manual_seed(2))
        found = accuracy(x, y)
        low, high = found.classes_interval()
        assert low < found.interval()[0] < found.interval()[1] < high
        assert found.classes_interval(0.5)[0] > low
        return high - low

    assert half(80) < 0.6 * half(12)


def test_the_interval_over_classes_covers_the_accuracy_on_other_classes():
    """Also: the length that the classes' own accuracies suggest would cover far less."""
    generator = torch.Generator().manual_seed(1)
    truth = accuracy(*population(2000, generator), n_episodes=8000).value
    found = [accuracy(*population(20, generator), seed=seed) for seed in range(250)]
    covers = [low <= truth <= high for low, high in (a.classes_interval() for a in found)]
    assert 0.915 <= sum(covers) / 250 <= 0.985
    halved = [abs(a.value - truth) <= a.classes_stderr for a in found]  # t/2 is about 1
    assert sum(halved) / 250 < 0.8
    over_episodes = [low <= truth <= high for low, high in (a.interval() for a in found)]
    assert sum(over_episodes) / 250 < 0.3


def test_the_interval_over_episodes_covers_the_accuracy_on_these_classes():
    x, y = population(20, torch.Generator().manual_seed(1))
    truth = accuracy(x, y, n_episodes=20_000, seed=1_000_000).value
    found = [accuracy(x, y, n_episodes=100, seed=seed).interval() for seed in range(400)]
    assert 0.92 <= sum(low <= truth <= high for low, high in found) / 400 <= 0.98


# paired differences


def test_a_paired_difference_is_that_of_the_values():
    generator = torch.Generator().manual_seed(0)
    x, y = population(20, generator)
    a = accuracy(x, y)
    b = accuracy(x + 0.3 * torch.randn(x.shape, generator=generator), y)
    found = paired_difference(a, b)
    assert torch.equal(found.values, a.values - b.values)
    assert found.value == pytest.approx(a.value - b.value)
    assert found.stderr == pytest.approx(float((a.values - b.values).std()) / math.sqrt(300))
    assert found.stderr < 0.8 * math.hypot(a.stderr, b.stderr)
    expected = across_classes(found.values, a.ways, 20)
    assert (found.classes_stderr, found.classes_dof) == expected
    assert found.classes_stderr < 0.5 * a.classes_stderr
    assert found.estimator == "nearest_mean minus nearest_mean"


def test_equal_models_are_told_apart_at_the_nominal_rate():
    """By both intervals: features that differ by independent noise of equal size."""
    generator = torch.Generator().manual_seed(3)
    wrong = np.zeros(2)
    for seed in range(200):
        x, y = population(20, generator)
        a, b = (
            accuracy(x + 0.5 * torch.randn(x.shape, generator=generator), y, seed=seed)
            for _ in range(2)
        )
        found = paired_difference(a, b)
        low, high = found.classes_interval()
        wrong += [
            not low <= 0.0 <= high,
            abs(found.value) > 4 * found.classes_stderr,
        ]
    assert wrong[0] / 200 <= 0.085
    assert wrong[1] == 0


def test_different_episodes_are_not_paired():
    x, y = population(6, torch.Generator().manual_seed(0))
    a = accuracy(x, y, n_episodes=10)
    others = {
        "seed": accuracy(x, y, n_episodes=10, seed=1),
        "number": accuracy(x, y, n_episodes=11),
        "ways": accuracy(x, y, n_episodes=10, n_way=4),
        "order": accuracy(x.flip(0), y.flip(0) + 0, n_episodes=10),
        "labels": accuracy(x, 2 * y, n_episodes=10),
        "shots": few_shot_accuracy(x, y, k_shot=4, n_query=11, n_episodes=10),
    }
    for b in others.values():
        with pytest.raises(ValueError, match="a, b: expected accuracies of the same episodes"):
            paired_difference(a, b)
    assert paired_difference(a, accuracy(2 * x, y, n_episodes=10)).value == 0.0
