import pytest
import torch
from reference import complexity as reference
from torch import nn
from torch.autograd import gradcheck

from geocollapse import GeometricComplexityPenalty
from maps import Standardised

METHODS = ("forward_mode", "double_backward", "finite_difference")


def net(p=6):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, p), nn.Softplus(), nn.Linear(p, 3)).double()


X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def exact_gradient(model):
    """Gradient in the first layer's weight of the exact GC of the embedding, by float64 autograd."""
    jacobians = torch.func.vmap(torch.func.jacrev(model[:4]))(X)
    return torch.autograd.grad(jacobians.square().sum(dim=(1, 2)).mean(), model[0].weight)[0]


def gradients(penalty, model, calls, x):
    """The penalty's gradient in the first layer's weight, each the mean of as many calls as there are to a period."""
    zero = torch.zeros_like(model[0].weight)
    for _ in range(calls):
        losses = [penalty(model, x)[1] for _ in range(penalty.every)]
        terms = [torch.autograd.grad(loss, model[0].weight)[0] if loss.requires_grad else zero for loss in losses]
        yield torch.stack(terms).mean(dim=0)


def agrees(draws, expected, within=4.5):
    """Whether the mean of the draws is as expected, in standard errors."""
    draws = torch.stack(list(draws))
    return bool(((draws.mean(dim=0) - expected).abs() <= within * draws.std(dim=0) / len(draws) ** 0.5).all())


SETTINGS = [{}, {"n_probes": 2}, {"batch_fraction": 0.25}, {"every": 3}]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_expected_gradient_is_that_of_exact_gc(settings, method):
    model, many = net(), X.repeat(200, 1)  # each copy has its own probe
    penalty = GeometricComplexityPenalty(0.5, method=method, **settings)
    draws = list(gradients(penalty, model, 60, many))
    assert agrees(draws, 0.5 * exact_gradient(model))
    assert not agrees(draws, 0.55 * exact_gradient(model))  # it would see a tenth


def test_gradcheck_in_the_parameters():
    model = net()
    del model[0].weight

    def gc(weight):
        model[0].weight = weight
        return GeometricComplexityPenalty(1.0, layer="3")(model, X)[1]

    assert gradcheck(gc, (torch.randn(8, 4, dtype=torch.float64).requires_grad_(),))


@pytest.mark.parametrize("settings", [{}, {"batch_fraction": 0.3}, {"every": 2}])
def test_output_is_the_models(settings):
    model, penalty = net(), GeometricComplexityPenalty(1e-3, **settings)
    for _ in range(3):
        output, _ = penalty(model, X)
        torch.testing.assert_close(output, model(X))


def test_last_is_the_unweighted_estimate():
    model, penalty = net(), GeometricComplexityPenalty(1e-2, every=2, n_probes=4)
    _, loss = penalty(model, X)
    assert loss.item() == pytest.approx(2e-2 * penalty.last.value)
    exact = float(reference.squared_norms(model[:4], X).mean())
    low, high = penalty.last.interval(0.9999)
    assert low < exact < high
    assert penalty(model, X)[1].item() == 0.0


def test_step_count_is_state():
    model, penalty = net(), GeometricComplexityPenalty(1e-2, every=2)
    penalty(model, X)
    resumed = GeometricComplexityPenalty(1e-2, every=2)
    resumed.load_state_dict(penalty.state_dict())
    assert resumed(model, X)[1].item() == 0.0
    assert resumed(model, X)[1].item() == pytest.approx([penalty(model, X), penalty(model, X)][1][1].item())


def test_a_batch_wise_layer_is_refused():
    """Its Jacobian mixes the examples of a batch; dropout, which draws the same for each look, does not."""
    model = nn.Sequential(nn.Linear(4, 5), Standardised(), nn.Linear(5, 3)).double().train()
    with pytest.raises(RuntimeError, match=r"first at '1' \(Standardised\): a batch-wise layer"):
        GeometricComplexityPenalty(1.0)(model, X)
    model[1] = nn.Dropout(0.5)
    GeometricComplexityPenalty(1.0)(model, X)[1].backward()


def test_batch_norm_is_refused_or_running():
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double().train()
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
        ({"weight": 1.0, "n_probes": "all"}, "n_probes: expected at least 1, or 'exact', got 'all'"),
        ({"weight": 1.0, "batch_fraction": 0.0}, r"batch_fraction: expected a share in \(0, 1\], got 0.0"),
        ({"weight": 1.0, "every": 0}, "every: expected a number of steps of at least 1, got 0"),
        ({"weight": 1.0, "batch_norm": "eval"}, "batch_norm: expected 'refuse' or 'running', got 'eval'"),
        ({"weight": 1.0, "method": "hessian"}, "method: expected one of forward_mode, .* got 'hessian'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        GeometricComplexityPenalty(**settings)


@pytest.mark.parametrize("method", METHODS)
def test_no_gradient_path(method):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 3)

    with pytest.raises(ValueError, match="layer: expected features that depend on the inputs"):
        GeometricComplexityPenalty(1.0, layer="", method=method)(Constant(), X)
