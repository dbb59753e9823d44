"""Second derivatives of the penalty: rules of forward mode, and maps that are refused."""

import pytest
import torch
from reference import complexity as reference
from torch import nn
from torch.nn import functional as F

from geocollapse.estimate import GeocollapseWarning
from geocollapse.regularizers.complexity import GeometricComplexityPenalty

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EXACT = ("forward_mode", "double_backward")


class Awkward(nn.Module):
    """Every rule of forward mode: in place, on fresh tensors, views and parts; two branches."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.layer_norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.gate = F.hardsigmoid
        self.classifier = nn.Linear(16, 3)

    def forward(self, x):
        h = self.first(x)
        self.relu(h)
        h = self.second(self.norm(h)) + h
        F.relu_(h)
        h = F.max_pool2d(h, 2, stride=1, padding=1)[..., :4, :4]
        h = F.max_pool2d(self.gate(h), 2)
        z = 1.5 * h.view(len(h), -1) - 0.4
        torch.relu_(z[:, :3])
        z = self.layer_norm(z).view(-1, 4, 4)
        z = z + self.attention(z, z, z, need_weights=False)[0] + F.relu(z).softmax(dim=1)
        return self.classifier(F.silu(z).flatten(1))


def test_forward_mode_has_the_derivatives_of_double_backward():
    torch.manual_seed(0)
    model = Awkward().double().eval()
    x = torch.randn(5, 2, 4, 4).double()
    nn.init.normal_(model.norm.bias)
    nn.init.normal_(model.layer_norm.weight)
    model.norm.running_var.uniform_(0.5, 2)
    a, output, first = gradients_of_all(model, x, "forward_mode")
    model.gate = lambda z: F.relu6(z + 3) / 6  # hardsigmoid has no second derivative in torch
    b, _, second = gradients_of_all(model, x, "double_backward")
    torch.testing.assert_close(output, model(x))
    assert a == pytest.approx(b, rel=1e-12)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-5, atol=1e-9
        )  # torch's own hardsigmoid has 1/6 in float32


def gradients_of_all(model, x, method):
    output, loss = GeometricComplexityPenalty(1.0, method=method, n_probes="exact")(model, x)
    parameters = [
        parameter for name, parameter in model.named_parameters() if "classifier" not in name
    ]
    found = torch.autograd.grad(loss + output.square().sum(), parameters)
    return loss.item(), output, found


def images(n=4, size=8):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def exact_gradients(model, x, method):
    """Gradients of the exact form in all parameters."""
    _, loss = GeometricComplexityPenalty(1.0, method=method, n_probes="exact")(model, x)
    return torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.InstanceNorm2d(4),
        lambda: nn.InstanceNorm2d(4, affine=True),
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval(),
        lambda: nn.GroupNorm(2, 4),
        lambda: Direct(torch.layer_norm),
        lambda: nn.Softmin(dim=1),
    ],
    ids=["instance", "instance affine", "instance running", "group", "torch.layer_norm", "softmin"],
)
def test_gradients_of_both_modes(norm):
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        norm(),
        nn.Flatten(),
        nn.Linear(256, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    ]
    model = nn.Sequential(*layers).double()
    found, expected = (exact_gradients(model, images().double(), method) for method in EXACT)
    for a, b in zip(found, expected, strict=True):
        if b is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10 * float(b.norm() + 1))


class Direct(nn.Module):
    """Layer normalisation by the function behind F.layer_norm."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.rand(8, 8))
        self.bias = nn.Parameter(torch.rand(8, 8))

    def forward(self, x):
        return self.function(x, (8, 8), self.weight, self.bias, 1e-5, True)


class Solved(nn.Module):
    """A linear system, for which torch's forward rule has a wrong graph.

    A layer with a much larger gradient follows it.
    """

    def __init__(self, gate):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.gate = gate
        self.large = nn.Linear(2, 200)
        self.last = nn.Linear(200, 3)

    def forward(self, x):
        a = self.first(x).view(-1, 2, 2) + 3 * torch.eye(2).to(x)
        z = torch.linalg.solve(a, torch.ones(len(x), 2, 1).to(x))
        return self.last(torch.tanh(5 * self.large(self.gate(z.flatten(1)))))


def test_a_wrong_rule_of_torch_is_refused():
    """If this no longer raises, torch has fixed its rule of linalg.solve: test another one."""
    torch.manual_seed(0)
    model = Solved(nn.Identity())
    with pytest.raises(
        NotImplementedError,
        match="method: expected forward rules with correct derivatives, got a gradient in 'first",
    ):
        GeometricComplexityPenalty(1.0)(model, X.float())
    assert GeometricComplexityPenalty(1.0, method="double_backward")(model, X.float())[1] > 0
    with pytest.raises(NotImplementedError, match="with correct derivatives"):
        GeometricComplexityPenalty(1.0)(Solved(nn.Hardsigmoid()), X.float())


def test_rules_that_cannot_be_compared_are_told():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            return self.last(OnlyForward.apply(self.first(x)))

    with pytest.warns(
        GeocollapseWarning,
        match="method: forward rules could not be checked .* once_differentiable",
    ):
        _, loss = GeometricComplexityPenalty(1.0)(Gated(), X.float())
    assert loss > 0
    with pytest.raises(
        NotImplementedError,
        match="second derivatives, got an operation that is once_differentiable; do",
    ):
        GeometricComplexityPenalty(1.0, method="double_backward")(Gated(), X.float())


class OnlyForward(torch.autograd.Function):
    """2 x, with a forward rule, and a backward pass without a derivative."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent


def test_a_model_that_differentiates_inside_its_forward_pass():
    """The inner gradient does not see the tangent of a linear layer, so the value is wrong."""

    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 8)
            self.norm = nn.LayerNorm(8)
            self.b = nn.Linear(8, 1)
            self.post = nn.Linear(4, 6)
            self.last = nn.Linear(6, 3)

        def forward(self, x):
            with torch.enable_grad():
                z = x * 1.0 if x.requires_grad else (x * 1.0).requires_grad_()
                energy = self.b(torch.tanh(self.norm(self.a(z)))).sum()
                (gradient,) = torch.autograd.grad(energy, z, create_graph=True)
            return self.last(torch.tanh(self.post(0.3 * gradient + x)))

    torch.manual_seed(0)
    model = Energy().double()
    with pytest.raises(
        NotImplementedError, match="got a (value|gradient) .* a model that differentiates inside"
    ):
        GeometricComplexityPenalty(1.0)(model, X)
    _, loss = GeometricComplexityPenalty(1.0, method="double_backward", n_probes="exact")(model, X)
    expected = reference.squared_norms(
        lambda z: torch.tanh(model.post(0.3 * _inside(model, z) + z)), X
    ).mean()
    assert loss.item() == pytest.approx(float(expected), rel=1e-6)


def _inside(model, z):
    (gradient,) = torch.autograd.grad(
        model.b(torch.tanh(model.norm(model.a(z)))).sum(), z, create_graph=True
    )
    return gradient


def test_complex_and_sparse_parameters():
    class Fourier(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, dtype=torch.complex128))
            self.last = nn.Linear(4, 3).double()

        def forward(self, x):
            return self.last(torch.tanh(torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=4)))

    torch.manual_seed(0)
    values = [
        GeometricComplexityPenalty(1.0, method=m, n_probes="exact")(Fourier(), X)[1].item()
        for m in EXACT[:1]
    ]
    assert values[0] > 0
    words = nn.Sequential(
        nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3)
    )
    _, loss = GeometricComplexityPenalty(1.0, input_layer="0")(words, torch.arange(6).view(2, 3))
    loss.backward()
    assert words[2].weight.grad.abs().max() > 0


def test_vmap_inside_a_model():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 5)
            self.last = nn.Linear(5, 3)

        def forward(self, x):
            return self.last(torch.func.vmap(lambda row: torch.tanh(self.first(row)))(x))

    torch.manual_seed(0)
    model = Mapped().double()
    values = [
        GeometricComplexityPenalty(1.0, method=m, n_probes="exact")(model, X)[1].item()
        for m in EXACT
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


@pytest.mark.parametrize("method", EXACT)
def test_a_gate_without_a_second_derivative_in_torch(method):
    """Hardsigmoid, as in MobileNetV3, works with both methods and without a warning."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.Hardsigmoid(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)
    ).double()
    _, loss = GeometricComplexityPenalty(1.0, method=method, n_probes="exact")(model, X)
    assert loss.item() == pytest.approx(
        float(reference.squared_norms(model[:4], X).mean()), rel=1e-6
    )  # its 1/6 is float32 in torch


@pytest.mark.filterwarnings("ignore:penalty. .* drops at random")
def test_a_model_whose_mode_or_trained_parameters_change_is_looked_at_again():
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)).double()
    penalty = GeometricComplexityPenalty(1.0, method="finite_difference")
    penalty(model.eval(), X)
    with pytest.raises(RuntimeError, match=r"first at '1' \(Dropout\)"):
        penalty(model.train(), X)
    penalty(model.eval(), X)
    model[0].requires_grad_(False)
    with pytest.raises(
        ValueError, match="layer: expected features that trained parameters can change"
    ):
        penalty(model, X)
    penalty = GeometricComplexityPenalty(1.0)
    model[0].requires_grad_(True)
    penalty(model, X)
    model[0].requires_grad_(False)
    with pytest.raises(
        ValueError, match="layer: expected features that trained parameters can change"
    ):
        penalty(model, X)


@pytest.mark.parametrize("method", [*EXACT, "finite_difference"])
def test_a_step_that_is_compiled_as_a_whole(method):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    expected, inside = (GeometricComplexityPenalty(1.0, method=method) for _ in range(2))

    def step(penalty, x):
        output, loss = penalty(model, 2 * x)
        return output.square().mean() + loss

    compiled = torch.compile(step, backend="aot_eager")
    for _ in range(2):
        assert compiled(inside, X).item() == pytest.approx(step(expected, X).item(), rel=1e-12)


def test_finite_differences_are_refused_with_tf32(monkeypatch):
    from geocollapse.numerics import coarse_rounding

    cuda = torch.device("cuda")
    monkeypatch.setattr("torch.is_autocast_enabled", lambda kind: False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert coarse_rounding(cuda) == "torch.backends.cudnn.allow_tf32 = True"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert coarse_rounding(cuda) is None
    assert coarse_rounding(torch.device("cpu")) is None


def test_operations_without_derivatives():
    model = nn.Sequential(nn.Linear(4, 8), nn.GLU(), nn.Linear(4, 3))
    with pytest.raises(
        NotImplementedError, match="method: expected a map with second derivatives, got .*glu_jvp"
    ):
        GeometricComplexityPenalty(1.0)(model, X.float())

    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 5)
            self.last = nn.Linear(1, 3)

        def forward(self, x):
            return self.last(torch.cdist(self.first(x)[:, None], torch.ones(len(x), 1, 5))[:, 0])

    with pytest.raises(
        NotImplementedError, match="method: expected a map with forward-mode derivatives, .*cdist"
    ):
        GeometricComplexityPenalty(1.0)(Distances(), X.float())


def test_in_place_hardsigmoid_as_a_statement():
    class Gated(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.first = nn.Linear(4, 5)
            self.gate = nn.Hardsigmoid(inplace=inplace)
            self.last = nn.Linear(5, 3)

        def forward(self, x):
            h = self.first(x)
            z = self.gate(h)
            return self.last(h if self.gate.inplace else z)

    values = []
    for inplace in (False, True):
        torch.manual_seed(0)
        values.append(
            GeometricComplexityPenalty(1.0, n_probes="exact")(Gated(inplace).double(), X)[1].item()
        )
    assert values[0] == values[1] > 0


def test_linear_layer_whose_weight_depends_on_the_inputs():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.last = nn.Linear(4, 3)

        def forward(self, x):
            h = self.first(x)
            rows = [F.linear(z.tanh()[None], weight=z.outer(z), bias=z.sin()) for z in h]
            return self.last(torch.cat(rows))

    model = Weighted().double()
    values = [
        GeometricComplexityPenalty(1.0, method=m, n_probes="exact")(model, X)[1].item()
        for m in EXACT
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_layer_norm_of_large_float16():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 32)
            self.norm = nn.LayerNorm(32)
            self.last = nn.Linear(32, 3)
            self.scale = 1

        def forward(self, x):
            return self.last(self.norm(self.scale * self.first(x)))

    torch.manual_seed(0)
    model = Large()
    x = torch.randn(16, 16)
    penalty = GeometricComplexityPenalty(1.0, n_probes=64)
    expected = penalty(model, x)[1].item()  # layer normalisation takes the scale away
    for model.scale in (1, 1000):
        with torch.autocast("cpu", torch.float16):
            assert penalty(model, x)[1].item() == pytest.approx(expected, rel=0.1)
