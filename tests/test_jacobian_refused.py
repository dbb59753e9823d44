"""Arguments and maps whose Jacobians are refused, and near misses that are not."""

import pytest
import torch
from torch import nn

from geocollapse.jacobian import squared_jacobian_norms
from maps import Twice, small_net


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"estimator": "exakt"}, ValueError, "estimator: expected one of exact, .*got 'exakt'"),
        (
            {"n_probes": 0, "estimator": "rademacher"},
            ValueError,
            "n_probes: expected a whole number of at least 1, got 0",
        ),
        (
            {"n_probes": 31, "estimator": "masked"},
            ValueError,
            "n_probes: expected at most the 30 entries of the Jacobian, got 31",
        ),
        (
            {"memory_limit": 100},
            ValueError,
            r"memory_limit: expected at least \d+ bytes .* one example takes, got 100; do",
        ),
        (
            {"f": lambda x: Twice.apply(x), "estimator": "input"},
            NotImplementedError,
            "with forward-mode .*do estimator='rademacher'",
        ),
        (
            {"n_probes": 9, "estimator": "orthogonal"},
            ValueError,
            "n_probes: expected at most n_features = 6",
        ),
        (
            {"x": torch.arange(5)[None]},
            TypeError,
            r"inputs: expected a floating tensor .* got torch.int64; do inputs.float",
        ),
        ({"f": lambda x: (x, x)}, TypeError, "features: expected one floating tensor, got tuple"),
        (
            {"f": lambda x: x.sum(dim=0)},
            ValueError,
            r"features: expected one row for each of 2 examples, got shape \(5,\)",
        ),
        (
            {"f": lambda x: x / 0},
            ValueError,
            "features: expected finite numbers, got NaN or infinity in 2 of 2",
        ),
        (
            {"f": nn.BatchNorm1d(5)},
            RuntimeError,
            r"model: expected evaluation mode, got batch normalisation .* model.eval\(\)",
        ),
        ({"f": nn.Sequential(nn.Dropout())}, RuntimeError, "or dropout in training mode in '0'"),
        (
            {"f": nn.BatchNorm1d(5, track_running_stats=False).eval()},
            RuntimeError,
            "without running statistics",
        ),
    ],
)
def test_bad_input(call, error, message):
    settings_ = {"f": small_net().float(), "x": torch.randn(2, 5), **call}
    with pytest.raises(error, match=message):
        squared_jacobian_norms(settings_.pop("f"), settings_.pop("x"), **settings_)


@pytest.mark.parametrize("estimator", ["exact", "rademacher", "outputs", "masked"])
@pytest.mark.parametrize("how", ["no_grad", "detach", "parameters alone"])
def test_a_cut_graph_is_refused(estimator, how):
    """Detached features would have norm 0; ``parameters alone`` have a graph without x."""
    net = small_net()
    head = small_net(p=4, d=6)

    def f(x):
        with torch.set_grad_enabled(how != "no_grad"):
            z = net(x)
        return head(z.detach()) if how == "parameters alone" else z.detach()

    with pytest.raises(
        RuntimeError,
        match=r"layer: expected a path of gradients .* got .* torch.no_grad or .detach\(\)",
    ):
        squared_jacobian_norms(f, torch.randn(3, 5).double(), estimator=estimator)


def test_a_cut_graph_is_refused_in_forward_mode_where_it_is_cut_there_too():
    net = small_net()
    x = torch.randn(3, 5).double()
    with pytest.raises(RuntimeError, match="layer: expected a path of gradients"):
        squared_jacobian_norms(lambda z: net(z.detach()), x, estimator="input")
    f = torch.no_grad()(net)  # forward mode has no need of the graph
    torch.testing.assert_close(
        squared_jacobian_norms(f, x, estimator="input"),
        squared_jacobian_norms(net, x, estimator="input"),
    )


@pytest.mark.parametrize("estimator", ["exact", "rademacher", "input"])
def test_zero_derivatives_are_no_cut_graph(estimator):
    """A step function changes with x, and its own gradient says 0."""
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert squared_jacobian_norms(lambda z: (1e6 * z).round(), x, estimator=estimator).tolist() == [
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("estimator", ["exact", "rademacher", "input"])
def test_norms_that_overflow_are_refused(estimator):
    x = torch.tensor([[1.0], [0.0], [0.0]])
    indices = torch.tensor([7, 8, 9])
    with pytest.raises(
        ValueError,
        match=r"features: .* infinity in 2 of 3 examples \(first in example 8\); do float32",
    ):
        squared_jacobian_norms(torch.sqrt, x, estimator=estimator, indices=indices)
