"""Multitask and continual learning: laws of siblings B."""

import copy
import dataclasses
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from laws import assert_close, assert_order
from reference import dynamics as reference
from reference.dynamics import ONE, START, TWO
from reference.implicit import THREE
from torch import nn

from geocollapse import dynamics
from geocollapse.dynamics import crossing_of, lie_bracket, multitask_bias, order_effect
from geocollapse.estimate import GeocollapseWarning
from landscapes import (
    Point,
    cross_entropy,
    in_bfloat16,
    loss_of,
    mlp,
    random_tree,
    resnet,
    text_classifier,
    vector,
    vision_transformer,
)

A, B = loss_of(ONE), loss_of(TWO)
G_A, G_B = ONE.gradient(START), TWO.gradient(START)


def two_heads(seed=0):
    """A shared trunk with a head for each task, and the losses of both."""
    torch.manual_seed(seed)
    parts = {"trunk": nn.Linear(4, 5), "a": nn.Linear(5, 1), "b": nn.Linear(5, 2)}
    model = nn.ModuleDict(parts).double()
    x = torch.randn(6, 4).double()

    def loss_of_head(head):
        return lambda m: m[head](torch.tanh(m["trunk"](x))).square().mean()

    return model, loss_of_head("a"), loss_of_head("b")


# ---- one step on the sum


def test_terms_are_those_derived_by_hand():
    found = multitask_bias([A, B], Point(), lr=0.1)
    assert_close(found.flatness, 0.1 / 4 * (G_A @ G_A + G_B @ G_B))
    assert_close(found.conflict, 0.1 / 2 * G_A @ G_B)
    assert_close(found.losses, [ONE.loss(START), TWO.loss(START)])
    assert_close(
        found.gramian,
        np.outer([1, 0], [G_A @ G_A, G_A @ G_B]) + np.outer([0, 1], [G_A @ G_B, G_B @ G_B]),
    )
    total = G_A + G_B
    assert_close(found.flatness + found.conflict, 0.1 / 4 * total @ total)
    assert_close(found.modified_loss, ONE.loss(START) + TWO.loss(START) + 0.1 / 4 * total @ total)


def test_order_of_the_losses_does_not_matter():
    a, b = multitask_bias([A, B, A], Point()), multitask_bias([B, A, A], Point())
    assert_close(a.conflict, b.conflict)
    assert_close(a.flatness, b.flatness)
    alone = multitask_bias([A], Point())
    assert alone.conflict == 0.0


def multitask_error(flatness=0.25, conflict=0.5):
    """Error of one step on the sum against the flow of the modified loss."""

    def error(h):
        def field(x):
            ga, gb = ONE.gradient(x), TWO.gradient(x)
            ha, hb = ONE.hessian(x), TWO.hessian(x)
            flat = 2 * flatness * h * (ha @ ga + hb @ gb)
            return -(ga + gb) - flat - conflict * h * (ha @ gb + hb @ ga)

        step = START - h * (G_A + G_B)
        return np.linalg.norm(step - reference.follow(field, START, h))

    return error


def test_one_step_on_the_sum_follows_the_modified_loss():
    steps = (0.04, 0.02, 0.01)
    assert_order(multitask_error(), 3, steps)
    assert_order(multitask_error(conflict=0.25), 2, steps)
    assert_order(multitask_error(conflict=0.0), 2, steps)
    assert_order(multitask_error(flatness=0.125), 2, steps)


def test_gramian_of_torchjd_is_the_same():
    autogram = pytest.importorskip("torchjd.autogram", reason="pip install torchjd")
    model, a, b = two_heads()
    engine = autogram.Engine(model, batch_dim=None)
    theirs = engine.compute_gramian(torch.stack([a(model), b(model)]))
    assert_close(multitask_bias([a, b], model).gramian, theirs.detach())


# ---- one task after the other


def test_bracket_is_the_one_derived_by_hand():
    found = lie_bracket(A, B, Point())
    expected = reference.bracket(ONE, TWO, START)
    assert_close(vector(found.field), expected)
    assert_close(found.norm, np.linalg.norm(expected))
    for value, g in zip(
        (found.alignments.a, found.alignments.b, found.alignments.total),
        (G_A, G_B, G_A + G_B),
        strict=True,
    ):
        assert_close(value, expected @ g / np.linalg.norm(g) / np.linalg.norm(expected))


def test_sign_in_a_case_worked_out_on_paper():
    """L_a = x, L_b = x^2/2 + x y: a then b ends at h^2 H_b g_a = h^2 (1, 1) from both at once."""

    def a(p):
        return p()[0]

    def b(p):
        return p()[0] ** 2 / 2 + p()[0] * p()[1]

    point = Point([0.5, -0.2])
    assert_close(vector(lie_bracket(a, b, point).field), [1.0, 1.0])
    found = order_effect(a, b, point, lr=0.1)
    assert_close(vector(found.difference), [0.01, 0.01])
    assert_close(found.cosine, 1.0)


def test_bracket_is_antisymmetric():
    one, other = lie_bracket(A, B, Point()), lie_bracket(B, A, Point())
    assert_close(vector(one.field), -vector(other.field))
    assert lie_bracket(A, A, Point()).norm == 0.0
    assert math.isnan(lie_bracket(A, A, Point()).alignments.a)


@pytest.mark.parametrize("method", ["forward_over_reverse", "finite_difference"])
def test_methods_agree(method):
    model, a, b = two_heads()
    found = lie_bracket(a, b, model, method=method)
    assert_close(vector(found.field), vector(lie_bracket(a, b, model).field), 1e-6, 1e-9)


def test_bracket_is_in_general_no_gradient():
    """The Jacobian of a gradient is symmetric; that of the bracket is not."""
    eps = 1e-5
    columns = []
    for axis in np.eye(3):
        ends = [
            vector(lie_bracket(A, B, Point(START + sign * eps * axis)).field) for sign in (1, -1)
        ]
        columns.append((ends[0] - ends[1]) / (2 * eps))
    jacobian = np.stack(columns, axis=1)
    assert np.abs(jacobian - jacobian.T).max() > 0.1


def test_commuting_quadratics_with_one_minimiser_have_no_bracket():
    def quadratic(weights, centre):
        weights, centre = torch.tensor(weights).double(), torch.tensor(centre).double()
        return lambda p: (weights * (p() - centre) ** 2).sum()

    def turned(p):  # the same minimiser, and a Hessian that does not commute
        x = p() - 0.5
        return (x[0] + x[1]).square() + 0.2 * x[2].square()

    a = quadratic([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
    assert lie_bracket(a, quadratic([3.0, 1.0, 0.2], [0.5, 0.5, 0.5]), Point()).norm < 1e-12
    assert lie_bracket(a, quadratic([3.0, 1.0, 0.2], [0.0, 0.5, 0.5]), Point()).norm > 0.1
    assert lie_bracket(a, turned, Point()).norm > 0.1


def difference_error(coefficient, m=1):
    def error(h):
        found = order_effect(A, B, Point(), lr=h / m, n_steps=m)
        predicted = coefficient * h**2 * reference.bracket(ONE, TWO, START)
        return np.linalg.norm(vector(found.difference) - predicted)

    return error


@pytest.mark.parametrize("m", [1, 3])
def test_order_effect_is_the_bracket_to_third_order(m):
    steps = (0.02, 0.01, 0.005)
    assert_order(difference_error(1.0, m), 3, steps)
    assert_order(difference_error(0.5, m), 2, steps)  # the wrong coefficient
    assert_order(difference_error(-1.0, m), 2, steps)  # the wrong sign


def continual_error(bracket, flatness=0.25, m=1, average=False):
    """Error of m steps on a, then m on b, against the flow of B for the time 1."""

    def error(h):
        def field(x):
            total = np.zeros(3)
            for task in (ONE, TWO):
                total -= m * h * reference.modified_descent(task, x, h, flatness) * -1
            return total + bracket * (m * h) ** 2 * reference.bracket(ONE, TWO, x)

        ab = reference.descend(TWO.gradient, reference.descend(ONE.gradient, START, h, m), h, m)
        ba = reference.descend(ONE.gradient, reference.descend(TWO.gradient, START, h, m), h, m)
        end = (ab + ba) / 2 if average else ab
        return np.linalg.norm(end - reference.follow(field, START, 1.0))

    return error


@pytest.mark.parametrize("m", [1, 4])
def test_tasks_in_turn_follow_both_losses_and_half_the_bracket(m):
    steps = tuple(h / m for h in (0.02, 0.01, 0.005))
    assert_order(continual_error(0.5, m=m), 3, steps)
    assert_order(continual_error(0.0, m=m), 2, steps)
    assert_order(continual_error(0.25, m=m), 2, steps)
    assert_order(continual_error(0.5, flatness=0.125, m=m), 2, steps)


@pytest.mark.parametrize("tasks", [(ONE, TWO), (TWO, THREE, ONE)], ids=["two", "three"])
@pytest.mark.parametrize("rates", [(1.0, 0.4, 0.7), (0.3, 1.0, 0.5)], ids=str)
def test_tasks_with_rates_of_their_own(tasks, rates):
    """theta' = -grad sum h_i (L_i + h_i/4 ||g_i||^2) + share sum_{i<j} h_i h_j [g_i, g_j]."""

    def error(share):
        def of_step(h):
            hs = [rate * h for rate in rates[: len(tasks)]]
            pairs = list(combinations(zip(tasks, hs, strict=False), 2))

            def field(x):
                own = sum(k * reference.modified_descent(e, x, k) for e, k in zip(tasks, hs))
                brackets = sum(k * q * reference.bracket(a, b, x) for (a, k), (b, q) in pairs)
                return own + share * brackets

            end = START
            for task, k in zip(tasks, hs, strict=True):
                end = reference.descend(task.gradient, end, k)
            return np.linalg.norm(end - reference.follow(field, START, 1.0))

        return of_step

    steps = (0.02, 0.01, 0.005)
    assert_order(error(0.5), 3, steps)
    assert_order(error(0.0), 2, steps)
    assert_order(error(1.0), 2, steps)


def test_the_mean_of_both_orders_has_no_bracket():
    steps = (0.02, 0.01, 0.005)
    assert_order(continual_error(0.0, average=True), 3, steps)
    assert_order(continual_error(0.5, average=True), 2, steps)


def test_order_effect_of_several_steps():
    found = order_effect(A, B, Point(), lr=0.001, n_steps=5)
    ends = [
        reference.descend(
            second.gradient, reference.descend(first.gradient, START, 0.001, 5), 0.001, 5
        )
        for first, second in ((ONE, TWO), (TWO, ONE))
    ]
    assert_close(vector(found.difference), ends[0] - ends[1])
    predicted = 0.005**2 * reference.bracket(ONE, TWO, START)
    assert_close(vector(found.predicted), predicted)
    assert_close(found.norm, np.linalg.norm(ends[0] - ends[1]))
    assert_close(found.predicted_norm, np.linalg.norm(predicted))
    assert found.cosine > 0.999
    error = np.linalg.norm(ends[0] - ends[1] - predicted) / np.linalg.norm(predicted)
    assert_close(found.relative_error, error)


# ---- forgetting


def test_predictions_of_forgetting_are_those_derived_by_hand():
    h, m = 0.01, 3
    found = order_effect(A, B, Point(), lr=h, n_steps=m)
    bracket = reference.bracket(ONE, TWO, START)
    assert_close(found.a.second_order, reference.forgetting(ONE, TWO, START, h, m))
    assert_close(found.b.second_order, reference.forgetting(TWO, ONE, START, h, m))
    assert_close(found.a.first_order, -m * h * G_A @ G_B)
    assert_close(found.b.first_order, -m * h * G_A @ G_B)
    assert_close(found.a.predicted_gap, (m * h) ** 2 * G_A @ bracket)
    assert_close(found.b.predicted_gap, -((m * h) ** 2) * G_B @ bracket)
    assert_close(found.predicted_total_gap, (m * h) ** 2 * (G_A + G_B) @ bracket)


def test_losses_in_both_orders_are_measured():
    found = order_effect(A, B, Point(), lr=0.05, n_steps=4)
    alone = reference.descend(ONE.gradient, START, 0.05, 4)
    ab = reference.descend(TWO.gradient, alone, 0.05, 4)
    ba = reference.descend(ONE.gradient, reference.descend(TWO.gradient, START, 0.05, 4), 0.05, 4)
    assert_close(found.a.rise, ONE.loss(ab) - ONE.loss(alone))
    assert_close(found.a.order_gap, ONE.loss(ab) - ONE.loss(ba))
    assert_close(found.b.order_gap, TWO.loss(ba) - TWO.loss(ab))
    total = ONE.loss(ab) + TWO.loss(ab) - ONE.loss(ba) - TWO.loss(ba)
    assert_close(found.total_gap, total)


def forgetting_error(m, *, predicted=None, gap=False, **wrong):
    """Error of a prediction of the rise, or of the gap between both orders."""

    def error(h):
        found = order_effect(A, B, Point(), lr=h / m, n_steps=m).a
        if gap:
            return abs(found.order_gap - (predicted or 1.0) * found.predicted_gap)
        return abs(found.rise - reference.forgetting(ONE, TWO, START, h / m, m, **wrong))

    return error


@pytest.mark.parametrize("m", [1, 3])
def test_forgetting_is_predicted_to_third_order(m):
    steps = (0.005, 0.0025, 0.00125)
    assert_order(forgetting_error(m), 3, steps)
    assert_order(forgetting_error(m, mixed=1.0), 2, steps)
    if m > 1:  # a single step has no such term
        assert_order(forgetting_error(m, curved=1.0), 2, steps)


@pytest.mark.parametrize("m", [1, 3])
def test_the_gap_between_both_orders_is_the_bracket_along_the_gradient(m):
    steps = (0.02, 0.01, 0.005)
    assert_order(forgetting_error(m, gap=True), 3, steps)
    assert_order(forgetting_error(m, gap=True, predicted=0.5), 2, steps)
    assert_order(forgetting_error(m, gap=True, predicted=-1.0), 2, steps)


def test_swapping_the_tasks_swaps_what_they_forget():
    one = order_effect(A, B, Point(), lr=0.05, n_steps=2)
    other = order_effect(B, A, Point(), lr=0.05, n_steps=2)
    for found, expected in ((one.a, other.b), (one.b, other.a)):
        assert_close(dataclasses.astuple(found), dataclasses.astuple(expected))
    assert_close(one.total_gap, -other.total_gap)


def test_steps_that_diverge_say_so():
    with pytest.raises(dynamics.NonFiniteError, match="loss: expected a finite number"):
        order_effect(A, B, Point(), lr=10.0, n_steps=20)


@pytest.mark.parametrize("settings", [{"lr": 1e200}, {"lr": 1e154, "n_steps": 3}])
def test_steps_whose_square_overflows_diverge(settings):
    """Also where the losses stay finite."""

    def loss(p):
        return torch.tanh(p()).sum()

    with pytest.raises(dynamics.NonFiniteError, match="lr: expected . steps of a finite squared"):
        order_effect(loss, loss, Point(), **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused(dtype):
    point = Point()
    point.tail.data = point.tail.data.to(dtype)
    words = f"expected float32 or float64.*got {dtype} at 'tail'; do model.float"
    with pytest.raises(TypeError, match=words):
        order_effect(lambda p: p().sum(), lambda p: p().square().sum(), point)


def test_a_difference_below_rounding_is_warned_of():
    model, a, b = two_heads()
    rough = copy.deepcopy(model).float()
    x = torch.randn(6, 4)

    def of_head(head):
        return lambda m: m[head](torch.tanh(m["trunk"](x))).square().mean()

    tasks = of_head("a"), of_head("b")
    with pytest.warns(GeocollapseWarning, match=r"rounding of the parameters.*do model.double\(\)"):
        order_effect(*tasks, rough, lr=1e-4)
    with pytest.warns(GeocollapseWarning, match="do a larger lr"):
        order_effect(a, b, model, lr=1e-9)
    assert order_effect(*tasks, rough, lr=0.1).cosine > 0.9  # the negative controls: no warning
    assert order_effect(a, b, model, lr=1e-4).cosine > 0.99


def test_tasks_that_commute_have_no_difference_to_be_hidden():
    def square(p):
        return p().square().sum()

    found = order_effect(square, lambda p: 2.0 * square(p), Point().float())
    assert found.norm < 1e-6


# ---- networks


@pytest.mark.parametrize("n_steps", [1, 3])
def test_a_crossing_that_is_known_changes_nothing(n_steps):
    model, a, b = two_heads()
    at = crossing_of(a, b, model)
    one = order_effect(a, b, model, n_steps=n_steps)
    other = order_effect(a, b, model, n_steps=n_steps, crossing=at)
    assert (one.a, one.b) == (other.a, other.b)
    assert (one.norm, one.predicted_norm, one.cosine) == (
        other.norm,
        other.predicted_norm,
        other.cosine,
    )
    assert all(torch.equal(one.predicted[name], other.predicted[name]) for name in one.predicted)


def test_tasks_with_heads_of_their_own():
    model, a, b = two_heads()
    found = order_effect(a, b, model, lr=1e-3)
    assert found.cosine > 0.99
    assert set(found.difference) == {name for name, _ in model.named_parameters()}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    multitask_bias([a, b], model)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("make", [vision_transformer, text_classifier])
def test_transformers(make):
    model, loss = make()

    def other(m):
        return loss(m).square() + sum(p.square().sum() for p in m.parameters())

    lr = 1e-6  # the sharpness of this transformer is 300
    found = order_effect(loss, other, model, lr=lr)
    assert found.cosine > 0.99
    assert lie_bracket(loss, other, model).norm == pytest.approx(found.predicted_norm / lr**2)
    assert multitask_bias([loss, other], model, lr=0.1).flatness > 0.0


def test_brackets_and_biases_under_autocast():
    net, _ = mlp()
    net = net.float()
    x = torch.randn(8, 5)
    one, two = (cross_entropy(x, (torch.arange(8) + k) % 3) for k in (0, 1))
    rough = [in_bfloat16(one), in_bfloat16(two)]
    exact = lie_bracket(one, two, net)
    assert lie_bracket(*rough, net).norm == pytest.approx(exact.norm, rel=0.1)
    expected = multitask_bias([one, two], net)
    found = multitask_bias(rough, net)
    assert found.flatness == pytest.approx(expected.flatness, rel=0.05)
    with pytest.raises(TypeError, match="got torch.bfloat16; do model.float.*no autocast"):
        order_effect(*rough, net)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(TypeError, match="hides the difference of two runs, got autocast"),
    ):
        order_effect(one, two, net)


def test_batch_normalisation_as_everywhere():
    model, loss = resnet()

    def other(m):
        return loss(m).square()

    for run in (
        lambda **s: multitask_bias([loss, other], model, **s),
        lambda **s: lie_bracket(loss, other, model, **s),
        lambda **s: order_effect(loss, other, model, **s),
    ):
        with pytest.raises(RuntimeError, match="no batch normalisation in training mode"):
            run()
        run(batch_norm="running")


def test_tasks_that_share_no_parameter_are_refused():
    model = nn.ModuleDict({"a": nn.Linear(2, 1), "b": nn.Linear(2, 1)}).double()
    x = torch.ones(3, 2).double()

    def a(m):
        return m["a"](x).square().sum()

    def b(m):
        return m["b"](x).square().sum()

    words = "expected losses that share a parameter, got 'a.bias' of number 0 and 'b.bias'"
    for run in (
        lambda: lie_bracket(a, b, model),
        lambda: order_effect(a, b, model),
        lambda: multitask_bias([a, b], model),
    ):
        with pytest.raises(ValueError, match=words):
            run()
    assert multitask_bias([a, b, lambda m: a(m) + b(m)], model).conflict > 0.0
    with pytest.raises(ValueError, match="got 'b.bias' of number 1 and 'a.bias' of another"):
        multitask_bias([a, b, a], model)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="losses: expected at least one, got none"):
        multitask_bias([], Point())
    with pytest.raises(TypeError, match="losses: expected a list of losses, got function; do"):
        multitask_bias(A, Point())
    with pytest.raises(ValueError, match="lr: expected a positive step size, got 0"):
        multitask_bias([A], Point(), lr=0.0)
    with pytest.raises(ValueError, match="lr: expected a positive step size, got 'a'; do lr=0.1"):
        order_effect(A, B, Point(), lr="a")
    for wrong in (0, -1, 1.5):
        with pytest.raises(
            ValueError, match=f"n_steps: expected a whole .* at least 1, got {wrong}"
        ):
            order_effect(A, B, Point(), n_steps=wrong)
    with pytest.raises(ValueError, match="loss: expected a finite number"):
        order_effect(A, B, Point(), lr=10.0, n_steps=20)
    with pytest.raises(ValueError, match="0-d tensor"):
        lie_bracket(A, lambda p: p(), Point())


def test_bracket_of_a_model_with_frozen_parameters():
    model, a, b = two_heads()
    model["trunk"].bias.requires_grad_(False)
    found = lie_bracket(a, b, model)
    assert set(found.field) == set(random_tree(model))
    assert "trunk.bias" not in found.field
    assert isinstance(found, dynamics.LieBracket)
