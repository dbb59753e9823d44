"""Circumstances of training and inference: inference mode, weight 0, projections, NaN logits."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import geocollapse as geo
from geocollapse.models import LoadedModel
from geocollapse.regularizers import checkpoint_context

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(48) % 3


def net(*, dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))


DOORS = {
    "measure": lambda m, x: geo.measure(m, (x, Y)).geometric_complexity.value,
    "stream": lambda m, x: geo.measure(m, iter([(x, Y)])).geometric_complexity.value,
    "geometric_complexity": lambda m, x: geo.geometric_complexity(m, x).value,
    "compare_complexity": lambda m, x: geo.compare_complexity(m, lambda z: 2 * z, x).first,
    "squared_jacobian_norms": lambda m, x: float(geo.squared_jacobian_norms(m, x).mean()),
    "input probes": lambda m, x: geo.geometric_complexity(m, x, estimator="input").value,
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_works_inside_inference_mode(door):
    """Each gave another wrong reason: no gradients, detached features, inference tensors."""
    model = net().eval()
    expected = DOORS[door](model, X)
    with torch.inference_mode():
        inside = X + 0.0
        assert torch.is_inference(inside)
        assert DOORS[door](model, inside) == pytest.approx(expected, rel=1e-9)
        assert torch.is_inference_mode_enabled()


def test_a_model_built_in_inference_mode_is_named():
    with torch.inference_mode():
        model = net().eval()
    with pytest.raises(
        RuntimeError, match=r"expected parameters made outside torch.inference_mode"
    ):
        geo.measure(model, (X, Y))


def test_a_lazy_model_that_has_seen_no_input_is_named():
    model = nn.Sequential(nn.Linear(6, 4), nn.LazyLinear(3)).eval()
    with pytest.raises(RuntimeError, match=r"got 1\.weight of a lazy module .* do model\(x\) once"):
        geo.measure(model, (X, Y))


def test_the_penalty_says_that_it_is_inference_mode():
    with (
        torch.inference_mode(),
        pytest.raises(RuntimeError, match=r"got torch\.inference_mode\(\); do model\(x\) there"),
    ):
        geo.GeometricComplexityPenalty(1.0)(net(), X)


def test_a_metric_reset_in_inference_mode_goes_on_outside():
    metric = geo.CollapseMetric()
    with torch.inference_mode():
        metric.update(X, Y)
        metric.reset()
        metric.update(X + 0.0, Y)
    metric.update(X, Y)
    plain = geo.CollapseMetric()
    plain.update(torch.cat([X, X]), torch.cat([Y, Y]))
    assert float(metric.compute()["cdnv"]) == pytest.approx(float(plain.compute()["cdnv"]))


@pytest.mark.filterwarnings("ignore:penalty. .* drops at random")
@pytest.mark.parametrize("fraction", [1.0, 0.25])
@pytest.mark.parametrize("batch_norm", ["refuse", "running"])
def test_weight_0_draws_the_dropout_of_a_plain_step(fraction, batch_norm):
    model = net(dropout=0.5)
    penalty = geo.GeometricComplexityPenalty(0.0, batch_fraction=fraction, batch_norm=batch_norm)
    torch.manual_seed(1)
    plain = [model(X) for _ in range(3)]
    torch.manual_seed(1)
    for expected in plain:
        logits, loss = penalty(model, X)
        assert torch.equal(logits, expected)
        assert float(loss) == 0.0
        assert penalty.last.value > 0.0


def test_weight_0_updates_running_statistics_once():
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train())
    geo.GeometricComplexityPenalty(0.0, batch_norm="running")(models[0], X)
    models[1](X)
    torch.testing.assert_close(models[0][1].running_mean, models[1][1].running_mean)
    assert int(models[0][1].num_batches_tracked) == 1


def test_a_loaded_model_is_taken_by_split_and_penalty_too():
    loaded = LoadedModel(net(), "net")
    feature_map, head = geo.split(loaded)
    assert torch.equal(head(feature_map(X)), loaded(X))
    logits, gc_loss = geo.GeometricComplexityPenalty(1.0)(loaded, X)
    expected = geo.GeometricComplexityPenalty(1.0)(net(), X)
    assert torch.equal(logits, expected[0])
    assert torch.equal(gc_loss, expected[1])


def test_a_projection_is_no_classifier():
    """CLIP's visual_projection gives an embedding; its accuracy was that of 16 "classes"."""

    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Linear(6, 8)
            self.visual_projection = nn.Linear(8, 3, bias=False)

        def forward(self, x):
            return self.visual_projection(torch.tanh(self.body(x)))

    m = geo.measure(Projected(), (X, Y))
    assert m.layers[0].layer == ""
    assert m.features.shape == (48, 3)
    assert m.accuracy is None
    assert m.nc3 is None


def test_clip_is_measured_at_its_embedding():
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=12,
    )
    model = transformers.CLIPVisionModelWithProjection(config).eval()
    images = torch.randn(24, 3, 16, 16)
    m = geo.measure(model, [{"pixel_values": images, "labels": torch.arange(24) % 3}])
    assert m.layers[0].layer == "[image_embeds]"
    assert m.features.shape == (24, 12)


def test_nan_logits_are_no_predictions():
    """Accuracy was .1 and NC4 .91."""
    model = net().eval()
    with torch.no_grad():
        model[3].bias[1] = float("nan")
    with pytest.raises(ValueError, match="logits: expected finite numbers, got NaN"):
        geo.measure(model, (X, Y))


def test_nan_logits_of_a_features_file_are_no_predictions(tmp_path):
    logits = np.zeros((24, 3), dtype=np.float32)
    logits[5, 1] = np.nan
    features = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    path = tmp_path / "f.npz"
    np.savez(path, features=features, labels=np.arange(24) % 3, logits=logits)
    with pytest.raises(ValueError, match="logits: .*NaN"):
        geo.measure_features(path)


def test_the_example_of_a_nan_is_named_by_its_position():
    """33 was said as 19, its place in the reading order."""
    x = X.clone()
    x[33] = float("nan")
    with pytest.raises(ValueError, match=r"in 1 of .* examples \(first at example 33\)"):
        geo.measure(net(), (x, Y), batch_size=8)
    with pytest.raises(ValueError, match=r"first at example 33"):
        geo.geometric_complexity(net().eval(), x, batch_size=8, rtol=0.5)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_classifier_with_nan_is_refused(name):
    heads = {"weight": torch.ones(3, 6), "bias": torch.zeros(3)}
    heads[name][1] = float("nan")
    with pytest.raises(ValueError, match=f"{name}: expected finite numbers"):
        geo.neural_collapse(X, Y, **heads)


class StochasticDepth(nn.Module):
    """A branch that is dropped as a whole, rarely: two examples mostly do not show it."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0.0:
            return x
        return x * (torch.rand(len(x), 1) >= self.p) / (1.0 - self.p)


class NamedDropPath(StochasticDepth):
    pass


@pytest.mark.parametrize("kind", [StochasticDepth, NamedDropPath])
def test_rare_random_depth_is_refused_by_its_name(kind):
    model = nn.Sequential(nn.Linear(6, 8), kind(0.001), nn.Linear(8, 3))
    with pytest.raises(RuntimeError, match="training mode in '1'"):
        geo.geometric_complexity(model, X)
    model[1].p = 0.0
    assert geo.geometric_complexity(model, X).value > 0.0


class Block(StochasticDepth):
    """Random depth under a name that says nothing."""


def test_rare_draws_are_refused_by_the_random_state():
    """At p = .02 two examples seldom show them: GC was .2651, .2595 and .2595 for three seeds."""
    model = nn.Sequential(nn.Linear(6, 8), Block(0.001), nn.Linear(8, 3)).train()
    with pytest.raises(RuntimeError, match="change by chance.*do model.eval"):
        geo.geometric_complexity(model, X)
    assert geo.geometric_complexity(model.eval(), X).value > 0.0


class DrawsAlways(nn.Module):
    """Dropout that is on in evaluation mode too, or a draw that is not used there."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        chance = torch.rand([])
        return F.dropout(x, self.p) if self.p else x + 0.0 * chance


def test_draws_in_evaluation_mode_are_refused_where_they_show():
    def model_of(p):
        return nn.Sequential(nn.Linear(6, 256), DrawsAlways(p), nn.Linear(256, 3)).eval()

    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="change by chance.*switch it off"):
        geo.geometric_complexity(model_of(0.001), X)
    assert geo.geometric_complexity(model_of(0.0), X).value > 0.0  # as transformers' LayerDrop does


def test_dropout_under_the_penalty_is_said():
    with pytest.warns(geo.GeocollapseWarning, match="'2' drops at random, so that the penalty"):
        geo.GeometricComplexityPenalty(1.0)(net(dropout=0.1), X)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, 18)

    def forward(self, x):
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        return x + torch.tanh(F.scaled_dot_product_attention(q, k, v)[:, 0])


class Checkpointed(nn.Module):
    """Two blocks of attention, recomputed in the backward pass if ``settings`` are given."""

    def __init__(self, settings):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Attention(), Attention()])
        self.fc = nn.Linear(6, 3)
        self.settings = settings

    def forward(self, x):
        for block in self.blocks:
            if self.settings is None:
                x = block(x)
            else:
                x = checkpoint(block, x, use_reentrant=False, **self.settings)
        return self.fc(x.mean(dim=1))


def penalised_gradients(method, settings):
    model = Checkpointed(settings)
    x = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(1))
    logits, gc_loss = geo.GeometricComplexityPenalty(0.1, method=method)(model, x)
    (F.cross_entropy(logits, torch.arange(8) % 3) + gc_loss).backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("double_backward", {"context_fn": checkpoint_context}),
        ("finite_difference", {"context_fn": checkpoint_context}),
        ("finite_difference", {}),
    ],
)
def test_attention_may_be_checkpointed(method, settings):
    """The recomputation took the fused kernel, which has no second derivative."""
    found = penalised_gradients(method, settings)
    for got, expected in zip(found, penalised_gradients(method, None), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)
    assert torch.backends.cuda.flash_sdp_enabled()  # as before


@pytest.mark.parametrize("method", ["double_backward", "forward_mode"])
def test_other_checkpoints_of_attention_are_told_their_context(method):
    with pytest.raises(
        NotImplementedError,
        match=r"method: .* recomputed as in the forward pass, got .* do method='double_backward' "
        r"with checkpoint\(.*context_fn=geocollapse.regularizers.checkpoint_context\)",
    ):
        penalised_gradients(method, {})


def test_a_checkpoint_outside_the_penalty_keeps_its_kernels():
    forward, recompute = checkpoint_context()
    with forward, recompute:
        assert torch.backends.cuda.flash_sdp_enabled()
