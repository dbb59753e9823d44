import pytest
import torch
from torch import nn
from torch.nn import functional as F

import geocollapse as geo
from geocollapse.data import About, LabelledTokens
from geocollapse.features.independence import check_independence
from geocollapse.features.padding import check_padding
from maps import TEXTS, Reader, Routed, Standardised, padded
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
    return nn.Sequential(
        nn.Linear(4, width), *layers, nn.ReLU(inplace=True), nn.Linear(width, 3)
    ).eval()


def check(model, x, **settings):
    check_independence(lambda x: (lambda z: ([model(z)], None), x), x, model, **settings)


@pytest.fixture
def x():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


MIXING = {
    "standardised": (Standardised(), "'1' (Standardised)"),
    "softmax over the batch": (nn.Softmax(dim=0), "'1' (Softmax)"),
    "contrast to the next row": (Applied(lambda z: z - 1e-2 * z.roll(1, dims=0)), "'1' (Applied)"),
    "running sum": (Applied(lambda z: z.cumsum(dim=0)), "'1' (Applied)"),
    "normalised by the largest": (
        nn.Sequential(Applied(lambda z: z / z.abs().max())),
        "'1.0' (Applied)",
    ),
    "mean of the batch": (Applied(lambda z: z.mean(dim=0, keepdim=True) + 0 * z), "'1' (Applied)"),
}


@pytest.mark.parametrize(("layer", "place"), MIXING.values(), ids=MIXING)
def test_the_layer_that_mixes_is_named(layer, place, x):
    with pytest.raises(RuntimeError, match="examples that do not influence each other") as raised:
        check(through(layer), x)
    assert f"first at {place}: a batch-wise layer; do measure a layer before it" in str(
        raised.value
    )


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
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), Standardised(), nn.Linear(6, 3)
    )
    data = torch.randn(300, 4), torch.arange(300) % 3
    assert geo.measure(model, data, layer="2").geometric_complexity.value > 0.0
    with pytest.raises(RuntimeError, match=r"'3' \(Standardised\)"):
        geo.measure(model, data, layer=["0", "4"])


def test_batches_of_one_example_cannot_mix():
    f = nn.Sequential(nn.Linear(4, 3), Applied(lambda z: z - 0.5 * z.mean(dim=0))).eval()
    x = torch.randn(20, 4)
    alone = geo.geometric_complexity(f, x, batch_size=1, estimator="exact").value
    assert alone == pytest.approx(
        0.25 * float(f[0].weight.detach().double().square().sum()), rel=1e-6
    )


def test_a_model_in_training_mode_is_told_to_leave_it(x):
    model = through(Standardised()).train()
    with pytest.raises(RuntimeError, match=r"a batch-wise layer; do model.eval\(\) first"):
        check(model, x)
    with pytest.raises(
        RuntimeError, match=r"batch normalisation or dropout in training mode in '1'; do model.eval"
    ):
        geo.geometric_complexity(through(nn.BatchNorm1d(6)).train(), x)
    geo.geometric_complexity(through(nn.BatchNorm1d(6)), x)


def test_a_callable_is_refused_without_a_name(x):
    model = through(nn.BatchNorm1d(6)).train()
    with pytest.raises(RuntimeError, match="change with another one, somewhere in the map"):
        geo.geometric_complexity(lambda z: model(z), x)


def test_chance_is_told_from_mixing(x):
    model = through(Applied(lambda z: F.dropout(z, 0.5)))
    with pytest.raises(
        RuntimeError, match=r"change by chance, first at '1' \(Applied\); do switch it off"
    ):
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
    check(through(Standardised()), x[:1])  # one example has nothing to mix with


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_mixing_and_hides_none(dtype, x):
    def enter(model):
        def run(z):
            with torch.autocast("cpu", dtype=dtype):
                return [model(z)], None

        return lambda x: (run, x)

    check_independence(enter(through(nn.LayerNorm(6))), x, dtype=dtype)
    with pytest.raises(RuntimeError, match="do not influence each other"):
        check_independence(enter(through(Standardised())), x, dtype=dtype)


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224"])
def test_transformers_of_timm_pass(name):
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "num_classes": 3, "embed_dim": 16, "patch_size": 4}
    more = (
        {"depth": 2, "num_heads": 2}
        if name == "test_vit"
        else {"depths": (1, 1), "num_heads": (2, 4)}
    )
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


@pytest.mark.parametrize(("dtype", "constant"), [(torch.float32, 1e5), (torch.bfloat16, 100.0)])
def test_one_large_feature_hides_no_mixing(dtype, constant, x):
    beside = Applied(
        lambda z: F.pad(F.batch_norm(z, None, None, training=True), (0, 1), value=constant)
    )
    with pytest.raises(RuntimeError, match=r"'1' \(Applied\): a batch-wise layer"):
        check(nn.Sequential(nn.Linear(4, 6), beside).to(dtype).eval(), x.to(dtype))
    alone = Applied(lambda z: F.pad(z, (0, 1), value=constant))
    check(nn.Sequential(nn.Linear(4, 6), alone).to(dtype).eval(), x.to(dtype))


class Choosy(nn.Module):
    """Accepts values as in its data only: a row of a table, then numbers that are not negative."""

    def __init__(self, *layers):
        super().__init__()
        self.table = nn.Embedding(3, 2)
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        if bool((x < 0).any()):
            raise ValueError("negative")
        return self.layers(torch.cat([self.table(x[:, 0].long()), x[:, 1:].sqrt()], dim=1))


def test_a_map_meets_values_of_its_data_alone(x):
    x = 40 * x.abs() + 1
    x[:, 0] = torch.tensor([2.0, 0.0, 1.0, 1.0, 2.0])
    check(Choosy().eval(), x)
    with pytest.raises(RuntimeError, match=r"'layers.0' \(Standardised\)"):
        check(Choosy(Standardised()).eval(), x)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_mixing_is_seen_where_all_examples_are_the_same(value):
    x = torch.full((5, 4), value)
    check(through(nn.LayerNorm(6)), x)
    with pytest.raises(RuntimeError, match=r"'1' \(Standardised\)"):
        check(through(Standardised()), x)


def test_a_stream_is_checked_at_its_first_batch_of_two():
    x, labels = torch.randn(9, 4), torch.arange(9) % 2
    sizes = [1, 1, 4, 3]
    stream = list(zip(x.split(sizes), labels.split(sizes), strict=True))
    for measured in (
        lambda f, data: geo.measure(f, data),
        lambda f, data: geo.geometric_complexity(f, data),
    ):
        with pytest.raises(RuntimeError, match=r"'1' \(Standardised\)"):
            measured(through(Standardised()), iter(stream))
    norms = geo.measure(through(), iter(stream), layer="").geometric_complexity.values
    assert torch.allclose(
        norms, geo.measure(through(), (x, labels), layer="").geometric_complexity.values
    )
    ones = [(x[i : i + 1], labels[i : i + 1]) for i in range(9)]
    assert (
        geo.measure(through(Standardised()), iter(ones), layer="1").geometric_complexity.value
        == 0.0
    )


class Deaf(Reader):
    """Ignores its mask: padding counts as text."""

    def forward(self, input_ids, attention_mask=None):
        return super().forward(input_ids)


def text_model(kind, seed=0):
    torch.manual_seed(seed)
    return kind().eval()


def labelled(batch):
    return [batch | {"labels": torch.arange(len(batch["input_ids"])) % 2}]


@pytest.mark.parametrize(
    "texts", [TEXTS, [[1, 5, 9], [2, 6, 5], [3], [4]]], ids=["a pair padded", "a pair as long"]
)
def test_features_that_move_with_padding_are_refused(texts):
    deaf = text_model(Deaf)
    with pytest.raises(
        RuntimeError,
        match="features that padding does not change.*; do batch_size=1, which pads noth",
    ):
        geo.measure(deaf, labelled(padded(texts)), input_layer="tokens")
    geo.measure(text_model(Reader), labelled(padded(texts)), input_layer="tokens")
    rows = [{"input_ids": text} for text in texts]
    data = LabelledTokens(rows, torch.arange(len(texts)) % 2, About("texts", "all", ("a", "b")))
    settings = {"input_layer": "tokens", "batch_size": 1, "estimator": "exact"}
    alone, wanted = (geo.measure(model, data, **settings) for model in (deaf, text_model(Reader)))
    assert torch.allclose(alone.geometric_complexity.values, wanted.geometric_complexity.values)


def test_padding_on_the_left_is_looked_at_where_it_is_moved_to():
    on_the_left = {name: tensor.flip(1) for name, tensor in padded(TEXTS).items()}
    geo.measure(text_model(Reader), labelled(on_the_left), input_layer="tokens")
    with pytest.raises(RuntimeError, match="features that padding does not change"):
        geo.measure(text_model(Deaf), labelled(on_the_left), input_layer="tokens")


def test_padding_needs_no_more_positions_than_the_texts():
    full = padded([[1, 2] * 10, [3] * 20, [4] * 7])
    geo.measure(text_model(Reader), labelled(full), input_layer="tokens")
    with pytest.raises(RuntimeError, match="features that padding does not change"):
        geo.measure(text_model(Deaf), labelled(full), input_layer="tokens")


def test_padding_is_what_the_model_says_it_is():
    """A model that knows padding by its token would move with any other token in its place."""

    class ByToken(Reader):
        def forward(self, input_ids, attention_mask=None):
            return super().forward(input_ids, (input_ids != 10).long())

    model, texts = text_model(ByToken), padded([[1, 5, 9], [2, 6, 5], [3, 1, 4], [4, 4, 2]])
    model.tokens.padding_idx = None
    geo.measure(model, labelled(texts), input_layer="tokens")  # the token is unknown: not checked
    model.tokens.padding_idx = 10
    geo.measure(model, labelled(texts), input_layer="tokens")
    deaf = text_model(Deaf)
    deaf.tokens.padding_idx = 10
    with pytest.raises(RuntimeError, match="features that padding does not change"):
        geo.measure(deaf, labelled(texts), input_layer="tokens")


def test_texts_of_one_width_alone_are_not_looked_at():
    class Flat(Deaf):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids.reshape(-1, 6))

    class Strict(Deaf):
        def forward(self, input_ids, attention_mask):
            assert input_ids.shape[1] == 6
            return super().forward(input_ids)

    for kind in (Flat, Strict):
        geo.measure(text_model(kind), labelled(padded(TEXTS)), input_layer="tokens")
    check_padding(
        lambda x: (lambda z: ([z], None), x["x"]),
        {"x": torch.randn(3, 4), "attention_mask": torch.ones(3, 4)},
    )
    one = padded(TEXTS[2:3] * 3)
    geo.measure(text_model(Deaf), labelled(one), input_layer="tokens")


def test_draws_that_hang_on_the_data_are_no_batch_statistics():
    x = torch.tensor([[-1.0, -1.0, -1.0], [-1.0, 1.0, 1.0]])  # RReLU draws three numbers, then one
    with pytest.raises(
        RuntimeError, match=r"first at '0' \(RReLU\): random draws that depend on the data"
    ):
        check(nn.Sequential(nn.RReLU()).train(), x, is_random=True)


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
