import pytest
import torch
from torch import nn
from torch.nn import functional as F

import geocollapse as geo
from geocollapse.independence import check_rows_independent
from maps import Routed, Standardised
from test_borrow import everything


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def through(*layers, width=6):
    """Layers in the middle of a network, in evaluation mode."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), *layers, nn.ReLU(inplace=True), nn.Linear(width, 3)).eval()


def check(model, x, **settings):
    check_rows_independent(lambda x: (lambda z: ([model(z)], None), x), x, model, **settings)


@pytest.fixture
def x():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


MIXING = {
    "standardised": (Standardised(), "'1' (Standardised)"),
    "softmax over the batch": (nn.Softmax(dim=0), "'1' (Softmax)"),
    "contrast to the next row": (Applied(lambda z: z - 1e-2 * z.roll(1, dims=0)), "'1' (Applied)"),
    "running sum": (Applied(lambda z: z.cumsum(dim=0)), "'1' (Applied)"),
    "normalised by the largest": (nn.Sequential(Applied(lambda z: z / z.abs().max())), "'1.0' (Applied)"),
    "mean of the batch": (Applied(lambda z: z.mean(dim=0, keepdim=True) + 0 * z), "'1' (Applied)"),
}


@pytest.mark.parametrize(("layer", "place"), MIXING.values(), ids=MIXING)
def test_the_layer_that_mixes_is_named(layer, place, x):
    with pytest.raises(RuntimeError, match="examples that do not influence each other") as raised:
        check(through(layer), x)
    assert f"first at {place}: a batch-wise layer; do measure a layer before it" in str(raised.value)


@pytest.mark.parametrize("seed", range(20))
def test_experts_with_capacity(seed, x):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Routed(6), nn.Linear(6, 3)).eval()
    with pytest.raises(RuntimeError, match=r"'2' \(Routed\): a batch-wise layer"):
        check(model, x)


@pytest.mark.parametrize(
    "measured", ["measure", "geometric_complexity", "squared_jacobian_norms", "compare_complexity"]
)
def test_what_mixes_is_refused_wherever_it_is_measured(measured):
    model, x = through(Standardised()), torch.randn(300, 4)
    calls = {
        "measure": lambda: geo.measure(model, (x, torch.arange(300) % 3)),
        "geometric_complexity": lambda: geo.geometric_complexity(model, x),
        "squared_jacobian_norms": lambda: geo.squared_jacobian_norms(model, x),
        "compare_complexity": lambda: geo.compare_complexity(through(), model, x),
    }
    with pytest.raises(RuntimeError, match=r"first at '1' \(Standardised\)"):
        calls[measured]()


def test_layers_before_the_one_that_mixes_can_be_measured():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), Standardised(), nn.Linear(6, 3))
    data = torch.randn(300, 4), torch.arange(300) % 3
    assert geo.measure(model, data, layer="2").geometric_complexity.value > 0.0
    with pytest.raises(RuntimeError, match=r"'3' \(Standardised\)"):
        geo.measure(model, data, layer=["0", "4"])


def test_batches_of_one_example_cannot_mix():
    f = nn.Sequential(nn.Linear(4, 3), Applied(lambda z: z - 0.5 * z.mean(dim=0))).eval()
    x = torch.randn(20, 4)
    alone = geo.geometric_complexity(f, x, batch_size=1, estimator="exact").value
    assert alone == pytest.approx(0.25 * float(f[0].weight.detach().double().square().sum()), rel=1e-6)


def test_a_model_in_training_mode_is_told_to_leave_it(x):
    model = through(Standardised()).train()
    with pytest.raises(RuntimeError, match=r"a batch-wise layer; do model.eval\(\) first"):
        check(model, x)
    with pytest.raises(RuntimeError, match=r"batch normalisation or dropout in training mode in '1'; do model.eval"):
        geo.geometric_complexity(through(nn.BatchNorm1d(6)).train(), x)
    geo.geometric_complexity(through(nn.BatchNorm1d(6)), x)


def test_a_callable_is_refused_without_a_name(x):
    model = through(nn.BatchNorm1d(6)).train()
    with pytest.raises(RuntimeError, match="move with another one, somewhere in the map"):
        geo.geometric_complexity(lambda z: model(z), x)


def test_chance_is_told_from_mixing(x):
    model = through(Applied(lambda z: F.dropout(z, 0.5)))
    with pytest.raises(RuntimeError, match=r"change by chance, first at '1' \(Applied\); do switch it off"):
        geo.geometric_complexity(model, x)
    check(model, x, is_random=True)
    with pytest.raises(RuntimeError, match=r"'2' \(Standardised\): a batch-wise layer"):
        check(through(Applied(lambda z: F.dropout(z, 0.5)), Standardised()), x, is_random=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_what_treats_rows_alone_passes(dtype, x):
    layers = [nn.BatchNorm1d(6), nn.LayerNorm(6), nn.Dropout(), nn.GELU()]
    model = through(*layers).to(dtype)
    check(model, x.to(dtype))
    check(through(*layers).train()[:1], x)
    check(model, x[:1].to(dtype))
    check(through(Standardised()), x[:1])  # one example: nothing to mix it with


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_mixing_and_hides_none(dtype, x):
    def enter(model):
        def run(z):
            with torch.autocast("cpu", dtype=dtype):
                return [model(z)], None

        return lambda x: (run, x)

    check_rows_independent(enter(through(nn.LayerNorm(6))), x, dtype=dtype)
    with pytest.raises(RuntimeError, match="do not influence each other"):
        check_rows_independent(enter(through(Standardised())), x, dtype=dtype)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_transformers_of_timm_pass(name):
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "num_classes": 3, "embed_dim": 16, "patch_size": 4}
    more = {"depth": 2, "num_heads": 2} if name == "test_vit" else {"depths": (1, 1), "num_heads": (2, 4)}
    if name != "test_vit":
        more["window_size"] = 4
    torch.manual_seed(0)
    model = timm.create_model(name, **sizes, **more).eval()
    images = torch.randn(2, 3, 32, 32)
    check(model, images)
    last = [module for module in model.modules() if isinstance(module, nn.LayerNorm)][-2]
    last.register_forward_hook(lambda _m, _a, out: out - out.mean(dim=0))
    with pytest.raises(RuntimeError, match=r"\(LayerNorm\): a batch-wise layer"):
        check(model, images)


def test_the_model_is_left_as_it_was(x):
    model = through(nn.BatchNorm1d(6), Applied(F.dropout)).train()
    before = everything(model)
    for settings in ({}, {"is_random": True}):
        with pytest.raises(RuntimeError):
            check(model, x, **settings)
    after = everything(model)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:4] == after[1:4]
    assert torch.equal(before[4], after[4])
