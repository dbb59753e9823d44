"""The implicit regularisation of gradient descent and of SGD: laws of siblings G."""

import numpy as np
import pytest
import torch
from laws import assert_close, assert_order
from reference import dynamics as plain
from reference import implicit as reference
from reference.dynamics import ONE, START, Bumpy
from reference.implicit import BATCHES
from torch import nn

from geocollapse.dynamics import flow, implicit_bias, implicit_field, implicit_flow, landscapes
from landscapes import (
    Point,
    cross_entropy,
    in_bfloat16,
    loss_of,
    mlp,
    resnet,
    text_classifier,
    tree_of,
    vector,
    vision_transformer,
)

LOSSES = [loss_of(e) for e in BATCHES]


class Product(nn.Module):
    """The model a b x of the example in Barrett and Dherin (2021)."""

    def __init__(self, a=2.8, b=3.5):
        super().__init__()
        self.ab = nn.Parameter(torch.tensor([a, b], dtype=torch.float64))

    def forward(self, x):
        return self.ab.prod() * x


def product_loss(model):
    return (0.6 - model(1.0)).square() / 2


# ---- the terms


def test_terms_are_those_derived_by_hand():
    gradients = [e.gradient(START) for e in BATCHES]
    g = np.mean(gradients, axis=0)
    found = implicit_bias(Point(), LOSSES, lr=0.2)
    assert_close(found.loss, np.mean([e.loss(START) for e in BATCHES]))
    assert_close(found.full_norm, g @ g)
    assert_close(found.variance, np.mean([np.square(z - g).sum() for z in gradients]))
    assert_close(found.mini_batch_norm, np.mean([z @ z for z in gradients]))
    assert_close(found.penalty, 0.2 / 4 * np.mean([z @ z for z in gradients]))
    assert_close(found.modified_loss, found.loss + found.penalty)
    assert found.n_batches == 3


def test_one_loss_is_gradient_descent():
    alone, listed = implicit_bias(Point(), loss_of(ONE)), implicit_bias(Point(), [loss_of(ONE)])
    assert alone == listed
    assert alone.variance == 0.0
    assert_close(alone.full_norm, np.square(ONE.gradient(START)).sum())
    assert alone.expected_norm(1) == alone.full_norm


def test_order_of_the_batches_does_not_matter():
    a, b = implicit_bias(Point(), LOSSES), implicit_bias(Point(), LOSSES[::-1])
    assert_close(a.mini_batch_norm, b.mini_batch_norm)
    assert_close(a.variance, b.variance)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_norm_of_a_batch_drawn_without_replacement(size):
    losses = LOSSES + [lambda p, k=k: (p() - k).square().sum() * 0.3 for k in (1.0, 2.0, -1.0)]
    gradients = [2 * 0.3 * (START - k) for k in (1.0, 2.0, -1.0)]
    gradients = [e.gradient(START) for e in BATCHES] + gradients
    found = implicit_bias(Point(), losses)
    assert_close(found.expected_norm(size), reference.mean_norm(gradients, size))
    with_replacement = found.full_norm + found.variance / size
    if size > 1:  # the negative control
        assert abs(with_replacement / found.expected_norm(size) - 1.0) > 0.05


# ---- the flows


def test_velocity_is_the_one_derived_by_hand():
    found = implicit_flow(Point(), LOSSES, lr=0.1)
    assert_close(vector(found), reference.modified_flow(BATCHES, START, 0.1))
    alone = implicit_flow(Point(), loss_of(ONE), lr=0.1)
    assert_close(vector(alone), plain.modified_descent(ONE, START, 0.1))


def test_velocity_is_the_gradient_of_the_modified_loss():
    v = np.array([0.3, -0.8, 0.5])
    eps = 1e-5
    ends = [
        implicit_bias(Point(START + sign * eps * v), LOSSES, lr=0.1).modified_loss
        for sign in (1, -1)
    ]
    slope = (ends[0] - ends[1]) / (2 * eps)
    assert_close(-vector(implicit_flow(Point(), LOSSES, lr=0.1)) @ v, slope, rtol=1e-8)


@pytest.mark.parametrize(
    ("coefficient", "order"), [(0.25, 2), (0.125, 1), (0.0, 1), (0.5, 1)], ids=str
)
def test_descent_follows_the_modified_loss_for_a_fixed_time(coefficient, order):
    def error(h):
        end = plain.descend(ONE.gradient, START, h, round(0.8 / h))
        field = plain.follow(lambda x: plain.modified_descent(ONE, x, h, coefficient), START, 0.8)
        return np.linalg.norm(end - field)

    assert_order(error, order, (0.02, 0.01, 0.005))


def test_field_leads_where_descent_goes():
    """The library's own flow, at a fixed time: order 2."""

    def error(h):
        with landscapes(Point(), [loss_of(ONE)]) as found:
            end = flow(implicit_field(found, h), found[0].point, 0.8, n_steps=40)
        return np.linalg.norm(vector(end) - plain.descend(ONE.gradient, START, h, round(0.8 / h)))

    assert_order(error, 2, (0.02, 0.01, 0.005))


def shuffling_error(**settings):
    """The mean end of an epoch over all orders, against a flow for the time m h."""

    def error(h):
        end = reference.mean_of_orders(BATCHES, START, h)
        expected = plain.follow(
            lambda x: reference.modified_flow(BATCHES, x, h, **settings), START, len(BATCHES) * h
        )
        return np.linalg.norm(end - expected)

    return error


def test_random_shuffling_follows_the_mini_batch_term_to_third_order():
    steps = (0.01, 0.005, 0.0025)
    assert_order(shuffling_error(), 3, steps)
    assert_order(shuffling_error(coefficient=0.125), 2, steps)
    assert_order(shuffling_error(coefficient=0.0), 2, steps)
    assert_order(shuffling_error(of_mean=True), 2, steps)  # ||g||^2 alone, as for full batches


def test_one_order_alone_is_off_by_its_brackets():
    def error(share):
        def of_step(h):
            brackets = sum(
                plain.bracket(a, b, START) for k, a in enumerate(BATCHES) for b in BATCHES[k + 1 :]
            )
            mean = reference.mean_of_orders(BATCHES, START, h)
            end = reference.epoch(BATCHES, START, h) - share * h**2 * brackets
            return np.linalg.norm(end - mean)

        return of_step

    steps = (0.01, 0.005, 0.0025)
    assert_order(error(0.0), 2, steps)
    assert_order(error(0.5), 3, steps)


def test_error_of_shuffling_grows_at_most_as_the_cube_of_the_batches():
    """O(m^3 h^3) is a bound: where m doubles at one h, m of six different batches, it is 1 to 2."""
    generator = np.random.default_rng(0)
    shapes = generator.normal(size=(6, 3, 3))
    batches = [
        Bumpy((a + a.T) / 2 + 2 * np.eye(3), generator.normal(size=3), generator.uniform(0, 0.5))
        for a in shapes
    ]

    def error(m, h):
        end = reference.mean_of_orders(batches[:m], START, h)
        expected = plain.follow(
            lambda x: reference.modified_flow(batches[:m], x, h), START, m * h, n_steps=100
        )
        return np.linalg.norm(end - expected)

    for m in (2, 3):
        assert 0.85 <= np.log2(error(2 * m, 0.001) / error(m, 0.001)) <= 3.15


def test_example_of_the_product():
    """E = (y - a b x)^2/2: descent lowers |a^2 - b^2|, its flow keeps it."""
    start = np.array([2.8, 3.5])
    h = 0.025

    def gap(ab):
        return ab[0] ** 2 - ab[1] ** 2

    assert_close(gap(start), -4.41)
    end = plain.descend(lambda ab: reference.product_gradient(ab, 1.0, 0.6), start, h, 200)
    flowed = plain.follow(lambda ab: reference.product_flow(ab, 1.0, 0.6, 0.0), start, 5.0, 4000)
    assert_close(gap(end), -4.007, 2e-4)
    assert_close(gap(flowed), -4.41, 1e-8)
    model = Product()
    with landscapes(model, [product_loss]) as found:
        modified = flow(implicit_field(found, h), found[0].point, 200 * h, n_steps=400)
    assert_close(gap(vector(modified)), -4.118, 2e-4)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(product_loss(model), model.ab)
        model.ab.data -= h * gradient
    assert_close(gap(vector({"ab": model.ab})), gap(end))


# ---- networks


@pytest.mark.parametrize("build", [mlp, vision_transformer, text_classifier])
def test_velocity_of_networks(build):
    """-(g + h/2 H g) by a difference quotient of the gradient of E + h/4 ||g||^2."""
    model, loss = build()
    found = implicit_flow(model, loss, lr=0.1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(0)
    step = [3e-6 * torch.randn_like(p) for p in parameters]

    def modified(sign):
        for p, s in zip(parameters, step, strict=True):
            p.data += sign * s
        value = implicit_bias(model, loss, lr=0.1).modified_loss
        for p, s in zip(parameters, step, strict=True):
            p.data -= sign * s
        return value

    slope = (modified(1) - modified(-1)) / 2
    along = sum(float((z * s).sum()) for z, s in zip(found.values(), step, strict=True))
    assert_close(-along, slope, rtol=1e-5)


def test_batch_normalisation_as_everywhere():
    model, loss = resnet()
    for run in (implicit_bias, implicit_flow):
        with pytest.raises(RuntimeError, match="no batch normalisation in training mode"):
            run(model, loss, lr=0.1)
    for batch_norm in ("running", "batch"):
        found = implicit_bias(model, loss, lr=0.1, batch_norm=batch_norm)
        assert found.full_norm > 0.0
        implicit_flow(model, loss, lr=0.1, batch_norm=batch_norm)


def test_mini_batches_of_a_network_are_their_mean():
    """Four batches of two examples: C is the loss of all, and its norm that of the full batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()
    x, y = torch.randn(8, 5).double(), torch.arange(8) % 3

    def of(rows):
        return lambda m: nn.functional.cross_entropy(m(x[rows]), y[rows])

    parts = implicit_bias(model, [of(slice(k, k + 2)) for k in range(0, 8, 2)])
    whole = implicit_bias(model, of(slice(None)))
    assert_close(parts.loss, whole.loss)
    assert_close(parts.full_norm, whole.full_norm)
    each = [implicit_bias(model, of(slice(k, k + 2))).full_norm for k in range(0, 8, 2)]
    assert_close(parts.mini_batch_norm, np.mean(each))


def test_bias_and_flow_under_autocast():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    x, y = torch.randn(8, 5), torch.arange(8) % 3
    losses = [cross_entropy(x[rows], y[rows]) for rows in (slice(4), slice(4, 8))]
    rough = [in_bfloat16(loss) for loss in losses]
    exact = implicit_bias(net, losses, lr=0.1)
    assert implicit_bias(net, rough, lr=0.1).penalty == pytest.approx(exact.penalty, rel=0.05)
    fields = [vector(implicit_flow(net, part, lr=0.1)) for part in (losses, rough)]
    assert np.linalg.norm(fields[0] - fields[1]) < 0.05 * np.linalg.norm(fields[0])


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="losses: expected at least one, got none"):
        implicit_bias(Point(), [])
    with pytest.raises(ValueError, match="lr: expected a positive step size, got -1"):
        implicit_flow(Point(), LOSSES, lr=-1.0)
    with pytest.raises(ValueError, match="loss: expected a 0-d tensor"):
        implicit_bias(Point(), lambda p: p())
    with pytest.raises(ValueError, match="loss: expected a finite number, got nan"):
        implicit_bias(Point(), lambda p: p().sum() * torch.nan)
    with pytest.raises(ValueError, match="gradient path to every trained parameter.*'tail'"):
        implicit_bias(Point(), lambda p: p.head.sum())
    for size in (0, 4):
        with pytest.raises(ValueError, match=f"batch_size: .* from 1 to 3, .* got {size}"):
            implicit_bias(Point(), LOSSES).expected_norm(size)


def test_the_point_stays():
    point = Point()
    implicit_flow(point, LOSSES, lr=0.1)
    assert_close(vector(dict(point.named_parameters())), vector(tree_of(START)))
    assert all(p.grad is None for p in point.parameters())
