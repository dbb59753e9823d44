import functools
import math

import pytest
import torch
from reference import complexity as reference
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

import geocollapse as geo
from geocollapse.complexity.means import mean_norm, norms_by_class, stratified_mean
from geocollapse.complexity.stopping import looks
from geocollapse.jacobian import SquaredNorms

# The references are computed for the output.
geometric_complexity = functools.partial(geo.geometric_complexity, layer="")

REPEATS = 4000


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)).double()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    x = (
        torch.randn(500, 6, generator=generator).double()
        * torch.rand(500, 1, generator=generator).double()
    )
    return x, torch.randint(0, 4, (500,), generator=generator)


class Plain(Dataset):
    """A map-style data set, not a TensorDataset, whose labels are unknown before reading."""

    def __init__(self, x, y):
        self.x = x
        self.y = y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], self.y[i]


def tail(name, shape, generator):
    if name == "gamma":
        return torch.distributions.Gamma(4.0, 1.0).sample(shape)
    if name == "lognormal":
        return torch.exp(1.2 * torch.randn(shape, generator=generator, dtype=torch.float64))
    return torch.rand(shape, generator=generator, dtype=torch.float64) ** (-1 / 2.5)


def coverage(name, n_samples, n_probes, n=2000):
    """Share of intervals that contain the mean of n values, over samples and simulated probes.

    The map has 8 outputs.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    hits = 0
    for _ in range(REPEATS):
        g = tail(name, (n,), generator).double()
        rows = torch.randperm(n, generator=generator)[:n_samples]
        noise = (
            torch.distributions.Chi2(torch.tensor(8.0, dtype=torch.float64)).sample(
                (n_probes, n_samples)
            )
            / 8
        )
        probes = g[rows] * noise
        variances = (
            probes.var(dim=0) / n_probes if n_probes > 1 else torch.full((n_samples,), math.nan)
        )
        low, high = mean_norm(
            SquaredNorms(probes.mean(dim=0), variances, torch.full((n_samples,), n_probes)), n
        ).interval()
        hits += low <= float(g.mean()) <= high
    return hits / REPEATS


@pytest.mark.parametrize("name", ["gamma", "lognormal", "pareto"])
@pytest.mark.parametrize("n_probes", [2, 4])
def test_coverage_of_the_whole_data_set(name, n_probes):
    assert 0.93 <= coverage(name, 2000, n_probes) <= 0.97


@pytest.mark.parametrize("n_probes", [1, 2, 4])
def test_coverage_of_a_sample_with_a_light_tail(n_probes):
    assert 0.92 <= coverage("gamma", 200, n_probes) <= 0.97


def test_one_probe_without_a_second_is_conservative():
    assert coverage("gamma", 2000, 1) >= 0.97


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_samples": 120},
        {"n_probes": 3},
        {"estimator": "orthogonal"},
        {"estimator": "aligned"},
    ],
)
def test_coverage_of_real_probes(net, data, labelled, settings):
    exact = float(reference.squared_norms(net, data[0]).mean())
    inputs = data if labelled else data[0]
    hits = 0
    for seed in range(300):
        low, high = geometric_complexity(
            net, inputs, seed=seed, batch_size=500, **settings
        ).interval()
        hits += low <= exact <= high
    assert 0.90 <= hits / 300 <= 0.99


def test_exact_has_no_error(net, data):
    gc = geometric_complexity(net, data, estimator="exact")
    assert gc.value == pytest.approx(float(reference.squared_norms(net, data[0]).mean()), rel=1e-10)
    assert gc.interval() == (gc.value, gc.value)
    torch.testing.assert_close(gc.values, reference.squared_norms(net, data[0]))


def test_same_seed_same_value_however_the_data_is_read(net, data):
    x, y = data
    net32 = net.float()
    whole = TensorDataset(x.float(), y)
    first = geometric_complexity(net32, whole, batch_size=500)
    ways = [
        DataLoader(whole, batch_size=7),
        DataLoader(whole, batch_size=64, shuffle=True, drop_last=True),
        DataLoader(Plain(x.float(), y), batch_size=33, num_workers=1),
        [(x[:90].float(), y[:90]), (x[90:].float(), y[90:])],
        {"inputs": x.float(), "labels": y},
    ]
    for way in ways[:-1]:
        assert geometric_complexity(net32, way).value == pytest.approx(first.value, rel=1e-6)
    aligned = geometric_complexity(net32, whole, estimator="aligned")
    for way in ways[:3]:
        other = geometric_complexity(net32, way, estimator="aligned")
        assert other.value == pytest.approx(aligned.value, rel=1e-6)
    assert aligned.value != first.value
    with pytest.raises(
        ValueError, match="estimator: expected a data set .* for 'aligned', got a stream"
    ):
        geometric_complexity(net32, ways[3], estimator="aligned")
    with pytest.raises(TypeError, match="data: expected a DataLoader, .* got dict"):
        geometric_complexity(net32, ways[-1])
    net.double()


def test_a_subset_of_a_loader_keeps_its_examples_probes(net, data):
    whole = TensorDataset(*data)
    rows = torch.tensor([3, 10, 11, 40, 499])
    loader = DataLoader(whole, batch_size=2, sampler=rows.tolist())
    part = geometric_complexity(net, loader, n_probes=1)
    every = geometric_complexity(net, whole, n_probes=1)
    torch.testing.assert_close(part.values, every.values[rows])


def test_max_samples_of_labelled_data_takes_every_class_alike(net, data):
    gc = geometric_complexity(net, data, max_samples=100)
    assert (gc.n_samples, len(gc.values)) == (100, 100)
    skewed = (data[0], torch.cat([torch.zeros(480), torch.ones(20)]).long())
    assert geometric_complexity(net, skewed, max_samples=40, n_probes=2).n_samples == 40


def test_distribution_is_wider_than_data_set(net, data):
    here = geometric_complexity(net, data[0])
    beyond = geometric_complexity(net, data[0], population="distribution")
    assert beyond.value == here.value
    assert beyond.stderr > here.stderr
    assert beyond.stderr == pytest.approx(float(beyond.values.std()) / math.sqrt(500))


def test_classes_add_up(net, data):
    norms = SquaredNorms.exact(reference.squared_norms(net, data[0]))
    counts = {label: int((data[1] == label).sum()) for label in range(4)}
    classes = norms_by_class(norms, data[1], counts)
    total = stratified_mean(list(classes.values()), list(counts.values()), norms.values)
    assert total.value == pytest.approx(float(norms.values.mean()), rel=1e-12)
    assert total.stderr == 0.0


def test_few_second_probes_leave_a_class_conservative():
    values = torch.rand(50, dtype=torch.float64) + 1
    variances = torch.full((50,), math.nan, dtype=torch.float64)
    variances[:19] = 0.01
    norms = SquaredNorms(values, variances, torch.ones(50))
    labels = torch.zeros(50, dtype=torch.int64)
    wide = norms_by_class(norms, labels, {0: 50})[0]
    assert wide.stderr == pytest.approx(float(values.std()) / math.sqrt(50))
    variances[19] = 0.01
    told = values[:20][values[:20] <= values[20:].max()]
    filled = 0.01 * len(told) / told.square().sum() * values[20:].square()
    expected = math.sqrt((20 * 0.01 + float(filled.sum())) / 50**2)
    assert norms_by_class(norms, labels, {0: 50})[0].stderr == pytest.approx(expected)


def test_the_norms_that_carry_a_heavy_tail_get_a_second_probe():
    """With Pareto tail 2.5, the stated error of one probe is the error seen over seeds.

    The second probes of 200 random examples alone would tell little.
    """
    torch.manual_seed(0)
    f = nn.Linear(4, 3).double().eval()
    x = torch.randn(1500, 4).double()
    scale = torch.rand(1500, generator=torch.Generator().manual_seed(0)).double() ** (-1 / 5)
    h = lambda z: f(z[:, :4]) * z[:, 4:]  # noqa: E731
    inputs = torch.cat([x, scale[:, None]], dim=1)
    exact = geometric_complexity(h, inputs, estimator="exact").value
    estimates = [geometric_complexity(h, inputs, seed=seed, batch_size=1500) for seed in range(200)]
    seen = math.sqrt(sum((e.value - exact) ** 2 for e in estimates) / 200)
    stated = sorted(e.stderr for e in estimates)[100]
    assert 0.8 < stated / seen < 1.2
    covered = sum(low <= exact <= high for low, high in (e.interval() for e in estimates))
    assert covered >= 0.9 * 200


def test_warnings(net, data):
    zero = geometric_complexity(lambda x: torch.ones(len(x), 2), data[0])
    assert zero.value == 0.0
    assert zero.interval() == (0.0, 0.0)
    assert "derivative of the features in the inputs is 0 at every example" in zero.warnings[0]
    spiky = data[0].clone()
    spiky[0] *= 1e3
    heavy = geometric_complexity(lambda x: x**2, spiky, estimator="exact")
    assert heavy.largest_share > 0.9
    assert "one example carries" in heavy.warnings[0]


def test_the_model_is_handed_back_as_it_was(net, data):
    net.eval()
    net[0].weight.requires_grad_(False)
    state = torch.random.get_rng_state()
    geometric_complexity(net, DataLoader(TensorDataset(*data), shuffle=True))
    with pytest.raises(TypeError):
        geometric_complexity(net, data[1])
    assert not net[0].weight.requires_grad
    assert net[2].weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    net[0].weight.requires_grad_(True)


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        (torch.empty(0, 6), {}, "data: expected at least one example, got none"),
        ([], {}, "data: expected at least one example, got none"),
        (
            (torch.ones(3, 6), torch.zeros(2).long()),
            {},
            "labels: expected one for each of 3 inputs, got 2",
        ),
        (
            [(torch.ones(3, 6).double(), torch.zeros(3))],
            {"max_samples": 2},
            "max_samples: .* stream of batches",
        ),
        (torch.ones(5, 6), {"max_samples": 1}, "max_samples: expected .* of at least 2"),
        (torch.ones(5, 6), {"max_samples": 50.0}, "max_samples: expected a whole number"),
        (torch.ones(5, 6), {"batch_size": 0}, "batch_size: expected .* of at least 1, got 0"),
        (torch.ones(5, 6), {"batch_size": 2.5}, "batch_size: expected a whole number"),
        (torch.ones(5, 6), {"seed": 1.5}, "seed: expected a whole number, got 1.5"),
        (torch.ones(5, 6), {"population": "Dataset"}, "population: expected 'dataset' or"),
    ],
)
def test_bad_input(net, inputs, settings, message):
    with pytest.raises(ValueError, match=message):
        geometric_complexity(net, inputs, **settings)


def test_float_labels_are_refused(net):
    with pytest.raises(
        TypeError, match=r"labels: expected integers, .* got torch.float32; do labels.long\(\)"
    ):
        geometric_complexity(net, (torch.ones(3, 6), torch.zeros(3)))


def test_subset_of_a_data_set_with_targets(net, data):
    class WithTargets(Plain):
        @property
        def targets(self):
            return self.y.tolist()

    subset = Subset(WithTargets(*data), range(100, 200))
    gc = geometric_complexity(net, subset, max_samples=50, estimator="exact")
    assert gc.n_samples == 50


def test_looks_grow_by_a_quarter():
    assert looks(2000) == [512, 640, 800, 1000, 1250, 1563, 1954, 2000]
    assert looks(300) == [300]
    assert looks(5000, n_classes=1000)[0] == 2000


@pytest.fixture(scope="module")
def many():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4000, 6, generator=generator) * torch.rand(4000, 1, generator=generator) * 2
    return x, torch.arange(4000) % 4


@pytest.mark.parametrize("rtol", [0.1, 0.2])
@pytest.mark.parametrize("labelled", [False, True])
def test_rtol_stops_when_precise_enough_and_covers(net, many, rtol, labelled):
    net32 = net.float()
    inputs = many if labelled else many[0]
    exact = geometric_complexity(net32, many[0], estimator="exact", batch_size=4000).value
    hits = 0
    sizes = []
    for seed in range(120):
        gc = geometric_complexity(net32, inputs, rtol=rtol, seed=seed, batch_size=2000)
        low, high = gc.interval()
        assert math.sqrt(high / low) - 1 <= rtol * 1.001
        assert gc.n_samples in looks(4000, 4 if labelled else 0)
        hits += low <= exact <= high
        sizes.append(gc.n_samples)
    assert hits >= 0.93 * 120
    assert min(sizes) < 4000
    net.double()


def test_rtol_that_cannot_be_reached_is_said(net, data):
    gc = geometric_complexity(net, data[0], rtol=1e-4, n_probes=2)
    assert gc.n_samples == 500
    assert gc.warnings[0].startswith("rtol=0.0001 was not reached with 500 examples")
    assert geometric_complexity(net, data[0], rtol=1e-4, estimator="exact").warnings == ()


@pytest.mark.parametrize("estimator", ["orthogonal", "outputs"])
def test_one_output_has_no_second_probe(data, estimator):
    f = nn.Linear(6, 1).double()
    gc = geometric_complexity(f, data[0], estimator=estimator)
    assert gc.value == pytest.approx(float(f.weight.detach().square().sum()))
    assert gc.stderr == 0.0


def test_norms_by_class_follow_the_declared_classes():
    """A class without a probed example is NaN with a reason, whatever the order of the sample."""
    norms = SquaredNorms.exact(torch.tensor([1.0, 10.0, 3.0, 20.0]).double())
    got = norms_by_class(norms, torch.tensor([7, 2, 7, 2]), {2: 2, 5: 9, 7: 2})
    assert list(got) == [2, 5, 7]
    assert (got[2].value, got[7].value) == (15.0, 2.0)
    assert math.isnan(got[5].value)
    assert got[5].warnings == ("no example was sampled",)
