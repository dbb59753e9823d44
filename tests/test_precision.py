"""Autocast and other precisions: sums in float64, and settings that are refused."""

import copy

import pytest
import torch
from reference import complexity as reference
from torch import nn

import geocollapse as geo
from geocollapse.features import pooled

X = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(400) % 4


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)
    ).eval()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("estimator", ["exact", "rademacher", "input"])
def test_autocast_agrees_to_its_rounding(dtype, estimator):
    """With the same probes, complexity and collapse differ by a few roundings of the precision."""
    whole = geo.measure(net(), (X, Y), estimator=estimator)
    half = geo.measure(net(), (X, Y), estimator=estimator, autocast=dtype)
    assert half.features.dtype == dtype
    rounding = torch.finfo(dtype).eps
    for a, b in (
        (whole.geometric_complexity.value, half.geometric_complexity.value),
        (whole.cdnv, half.cdnv),
        (whole.geometric_collapse.value, half.geometric_collapse.value),
    ):
        assert b == pytest.approx(a, rel=4 * rounding)
        assert b != a
    assert half.to_dict()["preprocessing"]["autocast"] == str(dtype).removeprefix("torch.")
    assert whole.to_dict()["preprocessing"]["autocast"] is None


def test_sums_keep_their_digits():
    """30,000 equal rows in bfloat16: a sum in bfloat16 would stop growing after 256 rows."""
    f = nn.Linear(3, 8, bias=False)
    x = torch.ones(30_000, 3)
    gc = geo.geometric_complexity(f, x, layer="", estimator="exact", autocast=torch.bfloat16)
    exact = float(f.weight.detach().bfloat16().double().square().sum())
    assert gc.value == pytest.approx(exact, rel=1e-12)


def test_a_mean_over_positions_keeps_its_digits():
    tokens = torch.ones(1, 4096, 2, dtype=torch.bfloat16)
    tokens[:, 0] = 256.0
    expected = torch.full((1, 2), (256.0 + 4095.0) / 4096.0)
    torch.testing.assert_close(pooled(tokens, "mean"), expected)
    torch.testing.assert_close(pooled(tokens, "mean", torch.ones(1, 4096)), expected)


def test_a_model_in_bfloat16():
    half = geo.measure(net().bfloat16(), (X, Y))
    whole = geo.measure(net(), (X, Y))
    assert half.geometric_complexity.value == pytest.approx(
        whole.geometric_complexity.value, rel=0.05
    )
    assert half.to_dict()["preprocessing"]["dtype"] == "bfloat16"


def test_float16_gradients_that_overflow_are_refused():
    """Features within the range of float16, with gradients outside it."""
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 4))
    nn.init.constant_(model[0].weight, 6e4)
    with pytest.raises(
        ValueError, match="features: expected finite Jacobians, .*do float32, or bfloat16 autocast"
    ):
        geo.measure(model, (1e-3 * X, Y), autocast=torch.float16)
    whole = geo.measure(model, (1e-3 * X, Y), autocast=torch.bfloat16).geometric_complexity.value
    assert whole == pytest.approx(48 * 6e4**2, rel=0.2)


def test_float64_on_request():
    model = net().double()
    gc = geo.measure(model, (X, Y), estimator="exact").geometric_complexity
    assert gc.value == pytest.approx(
        float(reference.squared_norms(model[:4], X.double()).mean()), rel=1e-12
    )


def test_autocast_ends_with_the_measurement():
    model = net()
    before = model(X)
    geo.measure(model, (X, Y), autocast=torch.bfloat16)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(model(X), before)


@pytest.mark.parametrize("call", [geo.geometric_complexity, geo.measure])
def test_other_dtypes_are_refused(call):
    with pytest.raises(
        ValueError,
        match=r"autocast: expected torch\.bfloat16 or torch\.float16, got torch\.float64",
    ):
        call(net(), (X, Y), autocast=torch.float64)


def test_the_command_line(capsys):
    from geocollapse.cli import main

    command = [
        "measure",
        "geocollapse.models.architectures:MLP",
        "digits",
        "--subset",
        "100",
        "--json",
        "--quiet",
    ]
    assert main([*command, "--autocast", "bfloat16"]) == 0
    assert '"autocast": "bfloat16"' in capsys.readouterr().out


def test_float16_that_underflows_is_refused_as_overflow_is():
    """At a feature scale of 1e-6 geometric complexity was off by 39 %."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 8))
    x = torch.randn(64, 8)
    small = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in small[2].parameters():
            parameter.mul_(1e-5)
    with pytest.raises(ValueError, match="expected Jacobians in the range of float16"):
        geo.geometric_complexity(small.half(), x.half(), layer="")
    half = geo.geometric_complexity(copy.deepcopy(net).half(), x.half(), layer="")
    assert half.value == pytest.approx(geo.geometric_complexity(net, x, layer="").value, rel=0.01)


def test_the_mean_over_positions_of_a_1d_convolution():
    """(n, channels, positions): the channels were averaged."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv1d(2, 5, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(40, 3)
    )
    x = torch.randn(12, 2, 10)
    data = (x, torch.arange(12) % 3)
    found = geo.measure(net, data, layer="0", pool="mean").features
    torch.testing.assert_close(found, net[0](x).mean(dim=2).detach())
    with pytest.raises(
        ValueError, match="pool: expected a layer that tells positions from channel"
    ):
        geo.measure(net, data, layer="1", pool="mean")


def test_a_block_of_autocast_around_a_measurement_is_recorded():
    with torch.autocast("cpu", torch.bfloat16):
        inside = geo.measure(net(), (X, Y))
    given = geo.measure(net(), (X, Y), autocast=torch.bfloat16)
    assert inside.layers[0].kept.context.preprocessing["autocast"] == "bfloat16"
    assert inside.features.dtype == torch.bfloat16
    assert inside.geometric_complexity.value == given.geometric_complexity.value
    assert inside.cdnv == given.cdnv


@pytest.mark.parametrize("noise", [1e-2, 1e-3])
def test_float32_features_far_from_0_and_collapsed_keep_their_digits(noise):
    """The residuals are a millionth of the means, which differ by as much as they are large."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20_000) % 10
    means = 1e3 * torch.randn(10, 256, generator=generator)
    x = means[labels] + noise * torch.randn(20_000, 256, generator=generator)
    found, exact = (geo.neural_collapse(z, labels) for z in (x, x.double()))
    for name in ("cdnv", "directional_cdnv", "nc1", "nc1_pooled"):
        expected = pytest.approx(getattr(exact, name), rel=1e-7, abs=0.0)  # they are about 1e-12
        assert getattr(found, name) == expected, name
