"""When to stop probing, and how to balance the number of examples against probes."""

import functools
import itertools
import math
import signal
import time

import pytest
import torch
from torch import nn

import geocollapse as geo
from geocollapse.complexity.probing import probes_worth
from geocollapse.complexity.stopping import first_interrupt_asks
from geocollapse.jacobian import SquaredNorms

# The references are computed for the output.
geometric_complexity = functools.partial(geo.geometric_complexity, layer="")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4000, 6, generator=generator) * torch.rand(4000, 1, generator=generator) * 2
    return x, torch.arange(4000) % 4


class Counting:
    """A map that runs an action at its k-th call."""

    def __init__(self, f, k, action):
        self.f = f
        self.k = k
        self.action = action
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        if self.calls == self.k:
            self.action()
        return self.f(x)


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_atol_is_the_standard_error_aimed_at(net, data):
    whole = geometric_complexity(net, data)
    aim = 4 * whole.stderr + 0.02 * whole.value
    gc = geometric_complexity(net, data, atol=aim)
    assert gc.stderr <= aim
    assert gc.sequential
    assert gc.n_samples < 4000
    assert gc.warnings == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rtol": 0.0}, "rtol: expected a positive number, got 0.0; do rtol=0.05"),
        ({"rtol": math.nan}, "rtol: expected a positive number, got nan"),
        ({"atol": -1.0}, "atol: expected a positive number, got -1.0"),
        ({"max_seconds": 0}, "max_seconds: expected a positive number, got 0"),
        ({"max_samples": 1}, "max_samples: expected a whole number of at least 2, got 1"),
        (
            {"max_samples": 7},
            "max_samples: expected at least 8, two for each of 4 classes, got 7; do max_samples=8",
        ),
        (
            {"rtol": 0.1, "atol": 0.1},
            "atol: expected one precision to stop at, got rtol=0.1 and atol=0.1; do leave one",
        ),
        (
            {"rtol": 0.1, "max_samples": 100},
            "max_samples: expected at least 512, where rtol has its first look, got 100",
        ),
    ],
)
def test_contradictory_or_impossible_rules_are_refused(net, data, settings, message):
    with pytest.raises(ValueError, match=message):
        geometric_complexity(net, data, **settings)
    with pytest.raises(ValueError, match=message):
        geo.measure(net, data, **settings)


@pytest.mark.parametrize("name", ["rtol", "atol", "max_samples", "max_seconds"])
def test_rules_for_any_order_are_refused_for_a_stream(net, data, name):
    with pytest.raises(
        ValueError, match=f"{name}: expected a data set that can be read in any order, got a stream"
    ):
        geometric_complexity(net, [data], **{name: 5})


def test_max_seconds_ends_with_a_random_sample(net, data):
    slow = Counting(net, 7, lambda: time.sleep(2.1))  # three calls check that rows are independent
    gc = geometric_complexity(slow, data, max_seconds=2.0, batch_size=100)
    whole = geometric_complexity(net, data)
    assert gc.n_samples == 400
    assert not gc.interrupted
    assert gc.warnings[-1] == "max_seconds=2 ended the probes after 400 of 4000 examples"
    low, high = gc.interval(0.999)
    assert low < whole.value < high


@pytest.mark.parametrize("labelled", [False, True])
def test_ctrl_c_ends_with_the_estimate_so_far(net, data, labelled):
    f = Counting(net, 8, interrupt)
    gc = geometric_complexity(f, data if labelled else data[0], batch_size=100)
    whole = geometric_complexity(net, data)
    assert gc.interrupted
    assert gc.to_dict()["interrupted"]
    assert gc.n_samples == 500
    assert gc.warnings[-1] == "interrupted after 500 of 4000 examples: the estimate so far"
    low, high = gc.interval(0.999)
    assert low < whole.value < high
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_a_measurement(net, data):
    class Interrupted(nn.Sequential):
        calls = itertools.count(1)

        def forward(self, x):
            # One call peeks at the layers, three check that rows are independent.
            if next(self.calls) == 11:
                interrupt()
            return super().forward(x)

    m = geo.measure(Interrupted(*net), data, batch_size=100)
    n = len(m.features)
    assert 600 <= n <= 800
    assert m.geometric_complexity.n_samples == n
    assert m.geometric_complexity.interrupted
    assert f"interrupted: all measures are of {n} of 4000 examples" in m.warnings
    assert sorted(m.labels.bincount().tolist()) == [n // 4] * 4  # classes take turns
    rows = m.kept.context.ids
    torch.testing.assert_close(m.features, net[:2](data[0][rows]).detach())
    assert torch.equal(m.labels, data[1][rows])
    low, high = m.geometric_complexity.interval(0.999)
    assert low < geometric_complexity(net[:2], data, estimator="exact").value < high


def test_a_second_ctrl_c_interrupts_as_usual():
    with first_interrupt_asks() as asked:
        assert not asked()
        interrupt()
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_program_that_handles_ctrl_c_itself_is_left_alone():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with first_interrupt_asks() as asked:
            interrupt()
            assert not asked()
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def norms_with(between, single, n=200):
    """Norms with the given variances between examples and of a single probe."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(n, generator=generator).double()
    values = (values - values.mean()) / values.std() * math.sqrt(between + single) + 10
    return SquaredNorms(
        values, torch.full((n,), float(single)).double(), torch.ones(n, dtype=torch.int64)
    )


def test_effort_is_shared_by_cost_and_variance():
    loose = 1e9
    assert probes_worth(norms_with(4.0, 4.0), loose, 1000, cost_ratio=0.0) == 1
    assert probes_worth(norms_with(4.0, 4.0), loose, 1000, cost_ratio=1.0) == 1
    assert probes_worth(norms_with(1.0, 16.0), loose, 1000, cost_ratio=1.0) == 4  # sqrt(w c / S^2)
    assert probes_worth(norms_with(4.0, 4.0), loose, 1000, cost_ratio=16.0) == 4
    assert probes_worth(norms_with(0.0, 4.0), loose, 1000, cost_ratio=1.0) == 64


@pytest.mark.parametrize("aim", [0.05, 0.06])
def test_more_probes_where_all_examples_are_too_few(aim):
    norms = norms_with(1.0, 4.0)
    n_left = 800
    r = probes_worth(norms, aim, n_left, 0.0)
    assert math.sqrt(200 * 4.0 + n_left * 4.0 / r) / 1000 <= aim
    assert r == 1 or math.sqrt(200 * 4.0 + n_left * 4.0 / (r - 1)) / 1000 > aim
    assert probes_worth(norms, 0.01, n_left, 0.0) == 64  # beyond reach


def test_a_precision_beyond_one_probe_is_reached_with_more(net):
    x = torch.randn(3000, 6, generator=torch.Generator().manual_seed(1))
    one, auto = (geometric_complexity(net, x, rtol=0.012, n_probes=n) for n in (1, "auto"))
    assert "rtol=0.012 was not reached with 3000 examples" in one.warnings[-1]
    assert auto.warnings == ()
    low, high = auto.interval()
    exact = geometric_complexity(net, x, estimator="exact").value
    assert low < exact < high
    assert math.sqrt(high / low) - 1 <= 0.012


def test_classes_of_one_example_make_one_stratum(net, data):
    labels = torch.cat([torch.arange(30), torch.full((3970,), 99)])
    gc = geometric_complexity(net, (data[0], labels), max_samples=400)
    whole = geometric_complexity(net, data[0], estimator="exact")
    low, high = gc.interval(0.999)
    assert low < whole.value < high
    assert math.isfinite(geometric_complexity(net, (data[0], labels)).stderr)


def test_top_examples_carry_the_largest_share(net, data):
    x = data[0].clone()
    f = lambda z: net(z) * (1 + 20 * (z[:, :1] > 3))  # noqa: E731
    m = geo.measure(nn.Sequential(net, Heavy()), (x, data[1]), layer="", estimator="exact")
    exact = geo.squared_jacobian_norms(nn.Sequential(net, Heavy()), x)
    best = m.top_examples(3)
    order = exact.argsort(descending=True)[:3]
    assert [example.index for example in best] == order.tolist()
    assert [example.class_name for example in best] == [str(int(label)) for label in data[1][order]]
    assert best[0].share == pytest.approx(m.geometric_complexity.largest_share)
    assert best[0].value == pytest.approx(float(exact.max()), rel=1e-6)
    sample = geometric_complexity(f, x, max_samples=700, estimator="exact")
    first = sample.top_examples(1)[0]
    assert first.value == pytest.approx(
        float(geo.squared_jacobian_norms(f, x[first.index][None])), rel=1e-6
    )
    with pytest.raises(ValueError, match="k: expected a positive number of examples, got 0"):
        m.top_examples(0)


class Heavy(nn.Module):
    """Makes a few outputs dominate."""

    def forward(self, z):
        return z.exp()


class OfLengths(torch.utils.data.Dataset):
    """Examples that are read by their lengths, as texts are, so that no class has its turn."""

    x = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))
    targets = (torch.arange(4000) % 50).tolist()
    lengths = torch.randint(1, 500, (4000,), generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        return self.x[row], self.targets[row]


def test_classes_that_an_early_end_leaves_without_an_example_are_said():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 50))
    whole = geometric_complexity(model, OfLengths(), batch_size=32)
    ended = geometric_complexity(model, OfLengths(), batch_size=32, max_seconds=1e-6)
    low, high = ended.interval()
    assert low < whole.value < high
    assert ended.n_samples == 128
    assert any("is over 47 of 50 classes" in note for note in ended.warnings)
    measured = geo.measure(model, OfLengths(), layer="", batch_size=32, max_seconds=1e-6)
    assert measured.geometric_complexity.value == pytest.approx(ended.value)
    assert math.isnan(measured.geometric_collapse.value)
