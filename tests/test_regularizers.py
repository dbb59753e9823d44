import gc
import importlib.util
import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from reference import complexity as reference
from torch import distributed, nn
from torch.autograd import gradcheck
from torch.nn import functional as F

from geocollapse.regularizers.complexity import GeometricComplexityPenalty
from maps import TEXTS, Reader, Standardised, padded

METHODS = ("forward_mode", "double_backward", "finite_difference")


def net(p=6):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, p), nn.Softplus(), nn.Linear(p, 3)
    ).double()


X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact_gradient(model):
    """Gradient in the first layer's weight of the exact GC of the embedding, in float64."""
    jacobians = torch.func.vmap(torch.func.jacrev(model[:4]))(X)
    return torch.autograd.grad(jacobians.square().sum(dim=(1, 2)).mean(), model[0].weight)[0]


def gradients(penalty, model, calls, x):
    """The penalty's gradient in the first layer's weight, each the mean over ``every`` calls."""
    zero = torch.zeros_like(model[0].weight)
    for _ in range(calls):
        losses = [penalty(model, x)[1] for _ in range(penalty.every)]
        terms = [
            torch.autograd.grad(loss, model[0].weight)[0] if loss.requires_grad else zero
            for loss in losses
        ]
        yield torch.stack(terms).mean(dim=0)


def agrees(draws, expected, within=4.5):
    """True if the mean of the draws is within so many standard errors of the expectation."""
    draws = torch.stack(list(draws))
    return bool(
        (
            (draws.mean(dim=0) - expected).abs() <= within * draws.std(dim=0) / len(draws) ** 0.5
        ).all()
    )


SETTINGS = [{}, {"n_probes": 2}, {"batch_fraction": 0.25}, {"every": 3}]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_expected_gradient_is_that_of_exact_gc(settings, method):
    model = net()
    many = X.repeat(200, 1)  # each copy has its own probe
    penalty = GeometricComplexityPenalty(0.5, method=method, **settings)
    draws = list(gradients(penalty, model, 60, many))
    assert agrees(draws, 0.5 * exact_gradient(model))
    assert not agrees(draws, 0.55 * exact_gradient(model))  # an error of a tenth would be seen


EXACT = ("forward_mode", "double_backward")


@pytest.mark.parametrize("n_probes", [1, "exact"])
@pytest.mark.parametrize("method", EXACT)
def test_gradcheck_in_the_parameters(method, n_probes):
    model = net()
    del model[0].weight

    def gc(weight):
        model[0].weight = weight
        return GeometricComplexityPenalty(1.0, layer="3", method=method, n_probes=n_probes)(
            model, X
        )[1]

    assert gradcheck(gc, (torch.randn(8, 4, dtype=torch.float64).requires_grad_(),))


@pytest.mark.parametrize("method", EXACT)
def test_exact_form(method):
    model = net()
    penalty = GeometricComplexityPenalty(1.0, method=method, n_probes="exact")
    _, loss = penalty(model, X)
    (gradient,) = torch.autograd.grad(loss, model[0].weight)
    assert loss.item() == pytest.approx(
        float(reference.squared_norms(model[:4], X).mean()), rel=1e-12
    )
    torch.testing.assert_close(gradient, exact_gradient(model), rtol=1e-10, atol=1e-12)
    assert (penalty.last.estimator, penalty.last.n_probes) == ("exact", 1)


def smooth_image_net(dtype=torch.float32):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(128, 16), nn.SiLU(), nn.Linear(16, 4)).to(dtype)


IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("dtype", "bias"), [(torch.float32, 2e-3), (torch.float64, 1e-6)])
def test_bias_of_finite_differences(dtype, bias):
    """With the same probes, value and gradient differ from the exact ones by the stated bias."""
    model = smooth_image_net(torch.float64)
    exact, expected = value_and_gradient(model, IMAGES.double(), "forward_mode")
    value, gradient = value_and_gradient(model.to(dtype), IMAGES.to(dtype), "finite_difference")
    assert value == pytest.approx(exact, rel=bias)
    assert float((gradient - expected).norm() / expected.norm()) < 10 * bias


def value_and_gradient(model, x, method, **settings):
    _, loss = GeometricComplexityPenalty(1.0, method=method, n_probes=8, **settings)(model, x)
    return loss.item(), torch.autograd.grad(loss, model[0].weight)[0].double()


@pytest.mark.parametrize("settings", [{}, {"batch_fraction": 0.3}, {"every": 2}])
def test_output_is_the_models(settings):
    model = net()
    penalty = GeometricComplexityPenalty(1e-3, **settings)
    for _ in range(3):
        output, _ = penalty(model, X)
        torch.testing.assert_close(output, model(X))


def test_last_is_the_unweighted_estimate():
    model = net()
    penalty = GeometricComplexityPenalty(1e-2, every=2, n_probes=4)
    _, loss = penalty(model, X)
    assert loss.item() == pytest.approx(2e-2 * penalty.last.value)
    exact = float(reference.squared_norms(model[:4], X).mean())
    low, high = penalty.last.interval(0.9999)
    assert low < exact < high
    assert penalty(model, X)[1].item() == 0.0


def test_collapse_beside_complexity():
    model = net()
    labels = torch.arange(12) % 3
    penalty = GeometricComplexityPenalty(1.0, n_probes="exact")
    penalty(model, X)
    assert penalty.last_collapse is None
    penalty(model, X, labels=labels)
    norms = reference.squared_norms(model[:4], X)
    features = model[:4](X).detach()
    gc = [norms[labels == c].mean() for c in range(3)]
    means = [features[labels == c].mean(dim=0) for c in range(3)]
    pairs = [(a, b) for a in range(3) for b in range(a)]
    expected = sum(
        (gc[a] + gc[b]) / (2 * (means[a] - means[b]).square().sum()) for a, b in pairs
    ) / len(pairs)
    assert penalty.last_collapse.value == pytest.approx(float(expected), rel=1e-10)
    gone = GeometricComplexityPenalty(1.0, batch_fraction=0.1)
    gone(model, X, labels=labels)
    assert math.isnan(gone.last_collapse.value)
    assert "no penalised example of class" in gone.last_collapse.warnings[0]


def test_step_count_is_state():
    model = net()
    penalty = GeometricComplexityPenalty(1e-2, every=2)
    penalty(model, X)
    resumed = GeometricComplexityPenalty(1e-2, every=2)
    resumed.load_state_dict(penalty.state_dict())
    assert resumed(model, X)[1].item() == 0.0
    assert resumed(model, X)[1].item() == pytest.approx(
        [penalty(model, X), penalty(model, X)][1][1].item()
    )


@pytest.mark.filterwarnings("ignore:penalty. .* drops at random")
def test_a_batch_wise_layer_is_refused():
    """A batch-wise layer mixes examples; dropout, which draws the same at each check, does not."""
    model = nn.Sequential(nn.Linear(4, 5), Standardised(), nn.Linear(5, 3)).double().train()
    with pytest.raises(RuntimeError, match=r"first at '1' \(Standardised\): a batch-wise layer"):
        GeometricComplexityPenalty(1.0)(model, X)
    model[1] = nn.Dropout(0.5)
    GeometricComplexityPenalty(1.0)(model, X)[1].backward()


def normalised_net():
    torch.manual_seed(0)
    return (
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
        .double()
        .train()
    )


@pytest.mark.parametrize("method", METHODS)
def test_running_statistics_are_those_of_the_call(method):
    """Even if other examples come before the backward pass; modules inside keep their mode."""
    gradients = []
    for again in (False, True):
        model = normalised_net()
        model[1].inside = nn.Dropout().eval()
        _, loss = GeometricComplexityPenalty(1.0, batch_norm="running", method=method)(model, X)
        if again:
            model(3 * X + 5)
        gradients.append(torch.autograd.grad(loss, model[0].weight)[0])
        assert model[1].training
        assert not model[1].inside.training
    assert torch.equal(*gradients)


def test_batch_norm_is_refused_or_running():
    model = normalised_net()
    with pytest.raises(RuntimeError, match="got '1'; do batch_norm='running'"):
        GeometricComplexityPenalty(1.0)(model, X)
    with torch.no_grad():
        for _ in range(50):
            model(X)
    before = model[1].running_mean.clone()
    penalty = GeometricComplexityPenalty(1.0, batch_norm="running", n_probes=64)
    _, loss = penalty(model, X)
    loss.backward()
    assert model[1].training
    assert not torch.equal(model[1].running_mean, before)  # one update, by the main forward
    exact = float(reference.squared_norms(model.eval()[:3], X).mean())
    assert loss.item() == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight: expected a number of at least 0, got -1.0"),
        ({"weight": 1.0, "n_probes": 0}, "n_probes: expected at least 1, or 'exact', got 0"),
        (
            {"weight": 1.0, "n_probes": "all"},
            "n_probes: expected at least 1, or 'exact', got 'all'",
        ),
        (
            {"weight": 1.0, "n_probes": "exact", "method": "finite_difference"},
            "n_probes: expected a number with finite",
        ),
        (
            {"weight": 1.0, "batch_fraction": 0.0},
            r"batch_fraction: expected a share in \(0, 1\], got 0.0",
        ),
        ({"weight": 1.0, "every": 0}, "every: expected a number of steps of at least 1, got 0"),
        ({"weight": 1.0, "every": 1.5}, "every: expected a number of steps of at least 1, got 1.5"),
        ({"weight": 1.0, "n_probes": 1.5}, "n_probes: expected at least 1, or 'exact', got 1.5"),
        (
            {"weight": 1.0, "batch_norm": "eval"},
            "batch_norm: expected 'refuse' or 'running', got 'eval'",
        ),
        (
            {"weight": 1.0, "method": "hessian"},
            "method: expected one of forward_mode, .* got 'hessian'",
        ),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GeometricComplexityPenalty(**settings)


def test_batch_norm_without_running_statistics_mixes_the_batch():
    model = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)
    ).double()
    with pytest.raises(RuntimeError, match="batch normalisation without running statistics in '1'"):
        GeometricComplexityPenalty(1.0, batch_norm="running")(model, X)


@pytest.mark.parametrize("settings", [{}, {"batch_fraction": 0.5}, {"every": 2}])
def test_accumulated_gradients_have_the_expectation_of_the_batch(settings):
    """Three micro-batches: as 3 and 2 have no common factor, each takes its turn."""
    model = net()
    penalty = GeometricComplexityPenalty(1.0, **settings)

    def accumulated():
        model.zero_grad()
        for _ in range(penalty.every):
            for part in X.split(4):
                output, loss = penalty(model, part.repeat(200, 1))
                ((loss + 0.0 * output.sum()) / 3).backward()
        return model[0].weight.grad.clone() / penalty.every

    draws = [accumulated() for _ in range(40)]
    assert agrees(draws, exact_gradient(model))
    assert not agrees(draws, 1.1 * exact_gradient(model))


@pytest.mark.parametrize("method", EXACT)
def test_bfloat16_autocast(method):
    model = smooth_image_net()
    value, gradient = value_and_gradient(model, IMAGES, method)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, other = value_and_gradient(model, IMAGES, method)
        output, loss = GeometricComplexityPenalty(1.0, method=method, batch_fraction=0.25)(
            model, IMAGES
        )
    assert (output.dtype, loss.dtype) == (torch.bfloat16, torch.float32)
    assert rounded == pytest.approx(value, rel=0.02)
    assert float((other - gradient).norm() / gradient.norm()) < 0.05


@pytest.mark.filterwarnings("ignore:penalty. .* drops at random")
def test_finite_differences_are_refused_where_rounding_or_chance_would_drown_them():
    penalty = GeometricComplexityPenalty(1.0, method="finite_difference")
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(TypeError, match="expected float32 or float64, .* got autocast"),
    ):
        penalty(smooth_image_net(), IMAGES)
    with pytest.raises(TypeError, match="expected float32 or float64, .* got torch.bfloat16"):
        penalty(smooth_image_net(torch.bfloat16), IMAGES.bfloat16())

    class Dropped(nn.Dropout):
        def forward(self, x):
            return F.dropout(x, 0.5, self.training)

    for layer in (nn.Dropout(), Dropped()):
        with pytest.raises(
            RuntimeError, match=r"first at '1' \(.*\); do method='forward_mode' with dropout"
        ):
            penalty(nn.Sequential(nn.Linear(4, 5), layer, nn.Linear(5, 3)).double(), X)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", [{}, {"batch_fraction": 0.25}, {"every": 2}], ids=str)
def test_compiled_model(method, settings):
    """The numbers of the plain model, though other examples go through the compiled one."""
    model = smooth_image_net()
    expected, other = (GeometricComplexityPenalty(1.0, method=method, **settings) for _ in range(2))
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        a, loss = expected(model, IMAGES)
        b, compiled_loss = other(compiled, IMAGES)
        torch.testing.assert_close(a, b)
        assert loss.item() == pytest.approx(compiled_loss.item())
        (b.square().mean() + compiled_loss).backward()


def test_compiled_inside():
    model = smooth_image_net()
    model[2] = torch.compile(model[2], backend="aot_eager")
    for method in EXACT:
        with pytest.raises(
            RuntimeError,
            match=r"expected no compiled module inside .* got '2'; do torch.compile\(model\)",
        ):
            GeometricComplexityPenalty(1.0, method=method)(model, IMAGES)
    ran = []

    def backend(graph, _inputs):
        return lambda *args: ran.append(graph) or graph(*args)

    model = smooth_image_net()
    model[2] = torch.compile(model[2], backend=backend)
    penalty = GeometricComplexityPenalty(1.0, method="finite_difference")
    output, loss = penalty(model, IMAGES)
    (output.square().mean() + loss).backward()
    assert ran  # the compiled graphs, not the code behind them
    assert loss.item() == pytest.approx(
        value_and_gradient(smooth_image_net(), IMAGES, "forward_mode")[0], rel=0.3
    )
    with pytest.raises(RuntimeError, match="expected a layer outside compiled modules, got '2'"):
        GeometricComplexityPenalty(1.0, layer="2", method="finite_difference")(model, IMAGES)


@pytest.mark.parametrize("method", EXACT)
def test_attention(method):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    settings = {
        "img_size": 8,
        "patch_size": 4,
        "depth": 1,
        "embed_dim": 12,
        "num_heads": 2,
        "num_classes": 3,
    }
    model = timm.create_model("vit_tiny_patch16_224", **settings).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    _, loss = GeometricComplexityPenalty(1.0, "head:in", method=method, n_probes="exact")(model, x)

    def embedding(z):
        return model.forward_head(model.forward_features(z), pre_logits=True)

    assert loss.item() == pytest.approx(
        float(reference.squared_norms(embedding, x).mean()), rel=1e-10
    )


def gradient_with_buffers(x):
    """The gradient of the second step of a network whose buffers the wrapper sends at each pass."""
    model = nn.parallel.DistributedDataParallel(normalised_net())
    penalty = GeometricComplexityPenalty(1.0, batch_norm="running")
    for _ in range(2):
        model.zero_grad()
        output, loss = penalty(model, x)
        (loss + output.square().mean()).backward()
    return model.module[0].weight.grad.clone()


def gradient_of_text(wrap, texts):
    """The gradient in the embedding of the tokens, for inputs by name."""
    torch.manual_seed(0)
    model = Reader().double()
    wrapped = wrap(model)
    output, loss = GeometricComplexityPenalty(1.0, input_layer="tokens", n_probes="exact")(
        wrapped, padded(texts)
    )
    (loss + 0.0 * output.sum()).backward()
    return model.tokens.weight.grad


def averaged_gradients(rank, folder):
    """One step of each kind in one of two processes, which stores the averaged gradients."""
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    model = net()
    half = X[6 * rank : 6 * rank + 6]
    found = {}
    for find_unused in (False, True):
        parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=find_unused)
        for method in EXACT:
            model.zero_grad()
            output, loss = GeometricComplexityPenalty(1.0, "3", method=method, n_probes="exact")(
                parallel, half
            )
            (loss + 0.0 * output.sum()).backward()
            found[method, find_unused] = model[0].weight.grad.clone()
    penalty = GeometricComplexityPenalty(1.0, "3", batch_fraction=0.5)
    output, loss = penalty(parallel, X)
    model.zero_grad()
    (loss + 0.0 * output.sum()).backward()
    found["output"] = output.detach()
    found["value"] = loss.item()
    found["random"] = model[0].weight.grad.clone()
    found["normalised"] = gradient_with_buffers(half)
    found["text"] = gradient_of_text(
        nn.parallel.DistributedDataParallel, TEXTS[2 * rank : 2 * rank + 2]
    )
    torch.save(found, f"{folder}/{rank}.pt")
    del parallel, penalty, output, loss
    gc.collect()  # a DDP that outlives its group can abort the process at its end
    distributed.destroy_process_group()


def test_two_processes(tmp_path, monkeypatch):
    """Averaged gradients are those of the global batch, and each rank has its own probes.

    Layers are named without `module.`.
    """
    torch.multiprocessing.spawn(averaged_gradients, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    model = net()
    for method in EXACT:
        for find_unused in (False, True):
            found = first[method, find_unused]
            torch.testing.assert_close(found, exact_gradient(model), rtol=1e-10, atol=1e-12)
            assert torch.equal(found, second[method, find_unused])
    assert torch.equal(first["normalised"], second["normalised"])
    assert first["normalised"].abs().max() > 0
    torch.testing.assert_close(
        first["text"], gradient_of_text(lambda model: model, TEXTS), rtol=1e-10, atol=1e-12
    )
    torch.testing.assert_close(first["output"], model(X))
    assert first["value"] != second["value"]
    alone = []
    for rank in range(2):
        monkeypatch.setattr("geocollapse.regularizers.pieces.share", lambda rank=rank: (rank, 2))
        alone += list(
            gradients(GeometricComplexityPenalty(1.0, "3", batch_fraction=0.5), model, 1, X)
        )
    torch.testing.assert_close(first["random"], (alone[0] + alone[1]) / 2)


def test_example(tmp_path, monkeypatch):
    path = Path(__file__).parents[1] / "examples" / "regularised_training.py"
    spec = importlib.util.spec_from_file_location("regularised_training", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setattr(example, "TARGET", 3.0)  # met at the first look
    images = torch.randn(64, 3, 32, 32)
    labels = torch.arange(64) % 10
    model, run = example.train(1e-3, 0, images, labels)
    assert run["training_loss"] < 3.0
    values = example.describe(model, images, labels)
    example.plot(
        [{"weight": weight, "seed": 0, **values} for weight in (0.0, 1e-3)], tmp_path / "figure.png"
    )
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_data_parallel_is_refused():
    with pytest.raises(
        TypeError, match=r"got DataParallel; do DistributedDataParallel\(model.module\)"
    ):
        GeometricComplexityPenalty(1.0)(nn.DataParallel(net()), X)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", [{}, {"batch_fraction": 0.5}])
def test_gradient_of_the_inputs(method, settings):
    """A stem before the model gets the whole gradient of the output, and that of the penalty."""
    model = net()
    stem = nn.Linear(4, 4).double()
    output, loss = GeometricComplexityPenalty(1.0, method=method, **settings)(model, stem(X))
    (of_output,) = torch.autograd.grad(output.square().sum(), stem.weight, retain_graph=True)
    (expected,) = torch.autograd.grad(model(stem(X)).square().sum(), stem.weight)
    torch.testing.assert_close(of_output, expected)
    assert torch.autograd.grad(loss, stem.weight)[0].abs().max() > 0


def test_an_output_that_parts_of_the_batch_do_not_give_is_refused():
    class Head(nn.Module):
        def __init__(self, head):
            super().__init__()
            self.net = net()
            self.head = head

        def forward(self, x):
            return self.head(self.net(x))

    def refused(head, message):
        model = Head(head)
        with pytest.raises((ValueError, RuntimeError), match=message):
            GeometricComplexityPenalty(1.0, "net.3", batch_fraction=0.5)(model, X)
        output, _ = GeometricComplexityPenalty(1.0, "net.3", batch_norm="running")(model, X)
        torch.testing.assert_close(output, model(X))

    refused(
        Standardised(),
        r"first at 'head' \(Standardised\): a batch-wise layer; do batch_norm='running', which",
    )
    of = "model: expected outputs with a row for each of 2 examples, got "
    refused(Scalar(), rf"{of}shape \(\); do switch it off .*, or batch_norm='running'")
    refused(TimeFirst(), rf"{of}shape \(7, 2, 3\)")
    output, _ = GeometricComplexityPenalty(1.0, "net.3", batch_fraction=0.5)(Head(WithNone()), X)
    assert output[1] is None


class Scalar(nn.Module):
    def forward(self, z):
        return z, z.square().mean()


class TimeFirst(nn.Module):
    def forward(self, z):
        return z.expand(7, *z.shape)


class WithNone(nn.Module):
    def forward(self, z):
        return z, None


def test_each_model_is_looked_at():
    """One penalty for two models; a model checked with one example is checked again with two."""
    a = net()
    b = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    penalty = GeometricComplexityPenalty(1.0, n_probes="exact")
    penalty(a, X)
    penalty(b, X)
    assert penalty.last.value == pytest.approx(float(reference.squared_norms(b[:2], X).mean()))
    c = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), Standardised(), nn.Linear(5, 3)).double()
    penalty(c, X[:1])
    known = penalty._maps.known
    penalty(c, X[:1])
    assert penalty._maps.known is known
    assert known.n_checked == 1  # checked once with one example, again with two
    with pytest.raises(RuntimeError, match="first at '2'"):
        penalty(c, X)
    assert deepcopy(penalty)(a, X)[1] == penalty(a, X)[1]


def test_outputs_of_several_tensors():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, x):
            logits = self.net(x)
            return {"logits": logits, "pair": (logits, 2 * logits)}

    model = Both()
    output, _ = GeometricComplexityPenalty(1.0, "net.3", batch_fraction=0.5)(model, X)
    torch.testing.assert_close(output, model(X))


def test_bad_calls():
    model = net()
    penalty = GeometricComplexityPenalty(1.0)
    with pytest.raises(
        TypeError, match="inputs: expected a floating tensor .* got inputs of torch.int64"
    ):
        penalty(model, torch.ones(3, 4, dtype=torch.int64))
    with (
        torch.no_grad(),
        pytest.raises(
            RuntimeError, match=r"penalty: expected gradients to be on, got torch.no_grad\(\)"
        ),
    ):
        penalty(model, X)
    with pytest.raises(
        ValueError, match=r"labels: expected 12 integers, .* got torch.int64 of shape \(3,\)"
    ):
        penalty(model, X, labels=torch.arange(3))
    with pytest.raises(
        ValueError, match=r"x: expected a batch of at least one example, got shape \(0, 4\)"
    ):
        penalty(model, X[:0])
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module, got function"):
        penalty(lambda x: x, X)
    with pytest.raises(
        ValueError, match="inputs: expected finite derivatives at the first examples, got NaN"
    ):
        penalty(model, X * torch.nan)
    assert int(penalty.step) == 0


@pytest.mark.parametrize("method", METHODS)
def test_no_trained_parameter_before_the_layer(method):
    model = deepcopy(net())
    model[:4].requires_grad_(False)
    with pytest.raises(
        ValueError,
        match="layer: expected features that trained parameters can change, .* '4:in'; do unfreeze",
    ):
        GeometricComplexityPenalty(1.0, method=method)(model, X)


@pytest.mark.parametrize("method", EXACT)
def test_no_gradient_path(method):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 3)

    with pytest.raises(ValueError, match="layer: expected features that depend on the inputs"):
        GeometricComplexityPenalty(1.0, layer="", method=method)(Constant(), X)
