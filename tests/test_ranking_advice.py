"""The number of examples in the advice of a ranking: of which pair, at which level, its power."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import geocollapse as geo
from geocollapse.estimate import Estimate
from geocollapse.multiple_tests import holm
from geocollapse.ranking.advice import examples_needed

N_CLASSES = 8


def three_models(seed):
    """A model, one that is a little worse on each example, and one that is worse on others."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(N_CLASSES, 16, generator=generator, dtype=torch.float64)
    y = torch.arange(N_CLASSES).repeat_interleave(40)
    shared, own, other = (
        torch.randn(len(y), 16, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    noise = {"a": 1.3 * shared, "b": 1.3 * shared + 0.35 * own, "c": 1.37 * other}
    return {label: (nn.Identity(), (means[y] + added, y)) for label, added in noise.items()}


def test_the_number_is_that_of_the_best_and_the_first_model_tied_with_it():
    ranking = geo.rank(three_models(10), layer="", n_episodes=200)
    a, b, c = ranking.models
    assert [model.label for model in ranking.models] == ["a", "b", "c"]
    apart, tied, _ = ranking.pairs
    assert (apart.second, apart.is_tie, tied.second, tied.is_tie) == ("b", False, "c", True)
    labels = a.kept.labels
    outcomes = a.sampled.examples - c.sampled.examples
    needed = examples_needed(outcomes, labels, tied.difference, n_pairs=3)
    assert f"apart from c with 40 examples a class; about {needed:,} would do." in ranking.advice
    of_others = a.sampled.examples - b.sampled.examples
    assert needed != examples_needed(of_others, labels, apart.difference, n_pairs=3)
    assert needed > examples_needed(outcomes, labels, tied.difference)
    assert needed > 40


def test_a_tie_whose_error_is_unknown_has_no_number():
    few = {label: (model, (x[::5], y[::5])) for label, (model, (x, y)) in three_models(0).items()}
    for settings in ({"k_shot": 5}, {"mode": "predicted"}):
        ranking = geo.rank(few, layer="", n_episodes=50, **settings)
        assert "with 8 examples a class." in ranking.advice.replace(" a is the fastest", "")
        assert "100,000" not in ranking.advice


def outcomes_of_models(accuracies, n, generator):
    """Outcomes (models, n) of independent examples, as normal as their sums."""
    return np.array(accuracies)[:, None] + 0.3 * generator.standard_normal((len(accuracies), n))


def share_told_apart(needed, accuracies, pair, dof, *, n_draws=1500):
    """Share of samples in which Holm's correction of all pairs tells one of them apart."""
    generator = np.random.default_rng(1)
    pairs = list(itertools.combinations(range(len(accuracies)), 2))
    place = pairs.index(pair)
    n_apart = 0
    for _ in range(n_draws):
        drawn = outcomes_of_models(accuracies, 5 * needed, generator)
        differences = np.array([drawn[i] - drawn[j] for i, j in pairs])
        stderr = differences.std(axis=1, ddof=1) / math.sqrt(5 * needed)
        if dof < 5 * needed:
            stderr = stderr * np.sqrt(generator.chisquare(dof, size=len(pairs)) / dof)
        t = np.abs(differences.mean(axis=1)) / stderr
        p_values = 2.0 * stats.t.sf(t, min(dof, 5 * needed - 5))
        n_apart += holm(list(p_values))[place] <= 0.05
    return n_apart / n_draws


@pytest.mark.parametrize("dof", [39.0, math.inf])
def test_the_number_gives_the_power_that_is_said_among_several_models(dof):
    accuracies = (0.7, 0.64, 0.64, 0.64)  # the others are equal: no pair helps another
    y = torch.arange(5).repeat_interleave(50)
    generator = torch.Generator().manual_seed(0)
    outcomes = 0.3 * math.sqrt(2.0) * torch.randn(250, generator=generator, dtype=torch.float64)
    outcomes += 0.06 - outcomes.mean()
    stderr = float(outcomes.std()) / math.sqrt(250)
    difference = Estimate(0.06, stderr, 600, dof=dof)
    needed = examples_needed(outcomes, y, difference, n_pairs=6)
    found = share_told_apart(needed, accuracies, (0, 2), dof)
    assert 0.77 <= found <= 0.9  # Holm's correction is milder than 1/6 of the level
    alone = examples_needed(outcomes, y, difference)
    assert share_told_apart(alone, accuracies, (0, 2), dof) < 0.7
