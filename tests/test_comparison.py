"""Which of two models has the lower geometric complexity."""

import functools

import laws
import pytest
import torch
from torch import nn

import geocollapse as geo
from geocollapse.complexity.comparison import comparison_looks

# The references are computed for the output.
geometric_complexity = functools.partial(geo.geometric_complexity, layer="")
compare_complexity = functools.partial(geo.compare_complexity, layer="")


def tanh_net(seed, scale=1.0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))
    with torch.no_grad():
        net[2].weight.mul_(scale)
    return net.eval()


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(3000, 5, generator=torch.Generator().manual_seed(3))


def test_a_comparison_is_shown_in_a_notebook_too():
    found = compare_complexity(lambda x: 2 * x, lambda x: x, torch.ones(40, 3))
    assert str(found).endswith("after 40 examples and 1 look")
    assert found._repr_html_() == f"<pre>{found}</pre>"


def test_looks_double():
    assert comparison_looks(3000) == [256, 512, 1024, 2048, 3000]
    assert comparison_looks(100) == [100]


def test_a_clear_difference_is_decided_at_the_first_look(inputs):
    f = tanh_net(0)
    g = tanh_net(0, scale=1.2)
    found = compare_complexity(f, g, inputs)
    assert found.decision == "first is lower"
    assert found.looks == (256,)
    assert compare_complexity(g, f, inputs).decision == "second is lower"
    assert str(found).startswith("first is lower: GC ")


def test_the_difference_is_that_of_the_two_estimates(inputs):
    f = tanh_net(0)
    g = lambda x: f(-x)  # noqa: E731
    found = compare_complexity(f, g, inputs, estimator="exact", alpha=1e-3, batch_size=700)
    whole = [geometric_complexity(h, inputs, estimator="exact").value for h in (f, g)]
    assert found.looks[-1] == 3000
    assert found.difference.stderr == 0.0
    assert (found.first, found.second) == pytest.approx(whole)
    assert found.difference.value == pytest.approx(whole[0] - whole[1])
    part = compare_complexity(f, g, inputs, max_samples=300)
    assert part.looks == (256, 300)
    low, high = part.interval
    assert low < whole[0] - whole[1] < high


def test_shared_probes_cancel(inputs):
    f = tanh_net(0)
    near = tanh_net(0, scale=1.001)
    found = compare_complexity(f, near, inputs, max_samples=256)
    alone = geometric_complexity(f, inputs, max_samples=256)
    assert found.difference.stderr < 0.01 * alone.stderr
    assert found.decision == "first is lower"


@pytest.mark.parametrize("estimator", ["rademacher", "input", "orthogonal"])
def test_equal_models_are_rarely_told_apart(estimator):
    """Two models of equal GC on symmetric inputs that differ at each example."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False)).eval()
    with torch.no_grad():
        first[0].bias.zero_()
    mirrored = lambda x: first(-x)  # noqa: E731  equal GC in the distribution of symmetric inputs
    wrong = 0
    for seed in range(150):
        x = torch.randn(1100, 4, generator=torch.Generator().manual_seed(seed))
        found = compare_complexity(
            first,
            mirrored,
            x,
            seed=seed,
            estimator=estimator,
            population="distribution",
            batch_size=1100,
        )
        wrong += found.decision != "undecided"
    assert wrong <= 150 * 0.05 + 3 * (150 * 0.05 * 0.95) ** 0.5


def test_the_same_model_is_undecided(inputs):
    found = compare_complexity(tanh_net(0), tanh_net(0), inputs)
    assert found.decision == "undecided"
    assert found.difference.value == 0.0
    assert found.looks == (256, 512, 1024, 2048, 3000)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0.0}, "alpha: expected a number between 0 and 1, got 0.0"),
        ({"estimator": "exakt"}, "estimator: expected one of exact"),
        ({"max_samples": 1}, "max_samples: expected a whole number of at least 2"),
    ],
)
def test_bad_input(inputs, settings, message):
    with pytest.raises(ValueError, match=message):
        compare_complexity(tanh_net(0), tanh_net(1), inputs, **settings)


def test_a_stream_is_refused(inputs):
    with pytest.raises(
        ValueError, match="inputs: expected a data set that can be read in any order"
    ):
        compare_complexity(
            tanh_net(0), tanh_net(1), [(inputs, torch.zeros(3000, dtype=torch.int64))]
        )


def test_rounding_decides_nothing():
    """A model and its rotation: equal but for rounding; 20 of 20 were told apart."""
    for seed in range(20):
        net = tanh_net(seed).float()
        turn = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            turn.weight.copy_(laws.random_rotation(4, seed=seed))
        x = torch.randn(600, 5, generator=torch.Generator().manual_seed(seed))
        found = geo.compare_complexity(
            net, nn.Sequential(net, turn), x, layer="", estimator="exact"
        )
        assert found.decision == "undecided"
        assert found.difference.stderr < 1e-5 * found.first


@pytest.mark.parametrize("estimator", ["orthogonal", "outputs"])
def test_probes_without_replacement(estimator, inputs):
    """One output leaves no second probe, and is exact; two of two outputs are exact as well."""
    f, g = nn.Linear(5, 1), nn.Linear(5, 1)
    found = geo.compare_complexity(f, g, inputs.float(), layer="", estimator=estimator)
    exact = float(f.weight.square().sum() - g.weight.square().sum())
    assert found.difference.value == pytest.approx(exact, rel=1e-5)
    assert found.difference.stderr == pytest.approx(0.0, abs=1e-5)
    wide = nn.Linear(5, 3)
    mixed = geo.compare_complexity(f, wide, inputs.float(), layer="", estimator=estimator)
    exact = float(f.weight.square().sum() - wide.weight.square().sum())
    low, high = mixed.interval
    assert low <= exact <= high


@pytest.mark.parametrize("estimator", ["outputs", "orthogonal"])
def test_the_error_of_probes_without_replacement_has_its_factor(estimator):
    """Var = w/r (1 - r/p): with p = 2 outputs and one probe, half of what independent ones give."""
    torch.manual_seed(0)
    f, g = nn.Linear(6, 2).double(), nn.Linear(6, 2).double()
    x = torch.randn(400, 6, dtype=torch.float64)
    found = [
        geo.compare_complexity(f, g, x, layer="", estimator=estimator, seed=seed, alpha=1e-9)
        for seed in range(200)
    ]
    spread = torch.tensor([c.difference.value for c in found]).std()
    stated = torch.tensor([c.difference.stderr for c in found]).square().mean().sqrt()
    assert float(stated / spread) == pytest.approx(1.0, abs=0.12)
