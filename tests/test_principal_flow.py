"""The principal flow, the stability of directions and the edge of stability: siblings D."""

import math

import numpy as np
import pytest
import torch
from laws import assert_close, assert_order, random_rotation
from reference import dynamics as reference
from reference.dynamics import ONE, START
from torch import nn

from geocollapse import dynamics
from geocollapse.dynamics import SharpnessMonitor, landscape, principal_flow, sharpness, stability
from geocollapse.dynamics.principal import principal_coefficients
from landscapes import (
    Point,
    Tilted,
    cross_entropy,
    in_bfloat16,
    loss_of,
    mlp,
    resnet,
    text_classifier,
    vector,
    vision_transformer,
)

THIRD = ONE.third(START, ONE.gradient(START))


def quadratic(*eigenvalues):
    """A quadratic of given eigenvalues in a random basis, and its matrix."""
    basis = random_rotation(3, seed=1)
    matrix = (basis * torch.tensor(eigenvalues).double()) @ basis.T
    return lambda point: 0.5 * point() @ matrix @ point(), matrix.numpy()


@pytest.mark.parametrize("h", [0.08, 0.3])
def test_field_is_the_one_derived_by_hand(h):
    found = principal_flow(Point(), loss_of(ONE), h)
    assert_close(vector(found.field), reference.principal(ONE, START, h))
    third = principal_flow(Point(), loss_of(ONE), h, third_order=True)
    assert_close(vector(third.field), reference.principal(ONE, START, h) - h**2 / 12 * THIRD)


@pytest.mark.parametrize("h", [0.1, 0.3, 0.9])
def test_exact_on_quadratics_below_one_over_the_sharpness(h):
    loss, matrix = quadratic(-0.7, 0.4, 1.0)
    with landscape(Point(), loss) as found:
        field = dynamics.principal_field(found, h)
        end = dynamics.flow(field, found.point, h, n_steps=300)
    assert_close(vector(end), START - h * matrix @ START, rtol=1e-8)


@pytest.mark.parametrize("h", [0.1, 0.7, 1.5, 4.0])
def test_exact_on_quadratics_for_every_step(h):
    """In the basis of eigenvectors the flow multiplies x_i by exp(h c_i lambda_i)."""
    loss, matrix = quadratic(-0.7, 0.4, 1.3)
    found = principal_flow(Point(), loss, h)
    values, vectors = np.linalg.eigh(matrix)
    assert_close(found.eigenvalues, values)
    factors = np.exp(h * found.coefficients.numpy() * values)
    end = vectors @ (factors * (vectors.T @ START))
    np.testing.assert_allclose(end.real, START - h * matrix @ START, atol=1e-12)
    np.testing.assert_allclose(end.imag, 0.0, atol=1e-12)
    assert bool(vector(found.imaginary).any()) == (h * 1.3 > 1.0)
    velocity = vectors @ (found.coefficients.numpy() * (vectors.T @ matrix @ START))
    assert_close(vector(found.field), velocity.real.copy())
    assert_close(vector(found.imaginary), velocity.imag.copy())


def step_error(field_at):
    """Error of one step of gradient descent against the flow of a field for its time."""

    def error(h):
        step = START - h * ONE.gradient(START)
        return np.linalg.norm(step - reference.follow(lambda x: field_at(x, h), START, h))

    return error


def with_third(coefficient):
    def field(x, h):
        third = ONE.third(x, ONE.gradient(x))
        return reference.principal(ONE, x, h) + coefficient * h**2 * third

    return field


def test_orders_of_the_flows_of_gradient_descent():
    steps = (0.04, 0.02, 0.01)
    assert_order(step_error(lambda x, h: -ONE.gradient(x)), 2, steps)
    assert_order(step_error(lambda x, h: reference.principal(ONE, x, h)), 3, steps)
    assert_order(step_error(with_third(-1 / 12)), 4, steps)
    steps = (0.02, 0.01, 0.005)
    assert_order(step_error(with_third(-1 / 6)), 3, steps)  # the wrong coefficient
    assert_order(step_error(with_third(1 / 12)), 3, steps)


def test_the_librarys_own_flow_has_these_orders():
    def error(h, third_order):
        with landscape(Point(), loss_of(ONE)) as found:
            field = dynamics.principal_field(found, h, third_order=third_order)
            end = dynamics.flow(field, found.point, h, n_steps=4)
        return np.linalg.norm(vector(end) - (START - h * ONE.gradient(START)))

    steps = (0.04, 0.02, 0.01)
    assert_order(lambda h: error(h, False), 3, steps)
    assert_order(lambda h: error(h, True), 4, steps)


def test_it_is_not_always_nearer_than_the_modified_loss():
    """The worse one at a point where third derivatives matter and h lambda_max is 1.61."""
    bumpy = reference.Bumpy(np.diag([0.1, 0.2, 0.3]), [3.0, -2.0, 1.0], 1.0)

    def errors(x, h):
        step = x - h * bumpy.gradient(x)
        fields = (
            lambda z: reference.principal(bumpy, z, h),
            lambda z: reference.modified_descent(bumpy, z, h),
        )
        return [np.linalg.norm(step - reference.follow(f, x, h, n_steps=50)) for f in fields]

    for point, largest, principal, modified in (
        ([1.0, -0.5, 0.5], 1.610, 0.0235, 0.0128),
        ([0.5, 0.4, 0.8], 0.213, 0.0003, 0.0287),
    ):
        x = np.array(point)
        assert 0.1 * np.linalg.eigvalsh(bumpy.hessian(x))[-1] == pytest.approx(largest, abs=1e-3)
        assert errors(x, 0.1) == pytest.approx([principal, modified], abs=1e-4)


def test_a_hessian_that_is_not_symmetric_is_refused():
    model = nn.Linear(5, 1, bias=False).double()
    for k in (None, 2):
        with pytest.raises(RuntimeError, match="expected a symmetric Hessian"):
            dynamics.principal_flow(model, lambda m: Tilted.apply(m.weight), k=k)


def test_coefficients_near_zero_and_at_one():
    z = torch.tensor([0.0, 1e-300, -1e-12, 1e-6, 0.5, 1.0, 1.5, -3.0], dtype=torch.float64)
    found = principal_coefficients(z)
    assert torch.isfinite(found.real).all()
    expected = [-1.0, -1.0, -1.0 + 5e-13, -1.0 - 5e-7 - 1e-12 / 3, math.log(0.5) / 0.5]
    np.testing.assert_allclose(found.real[:5], expected, rtol=1e-15)
    assert float(found.real[5]) == pytest.approx(-52 * math.log(2))
    np.testing.assert_allclose(complex(found[6]), np.log(-0.5 + 0j) / 1.5)
    assert float(found.real[7]) == pytest.approx(math.log(4) / -3)


def test_all_top_directions_are_the_whole_flow():
    for k, close in ((3, True), (1, False)):
        found = principal_flow(Point(), loss_of(ONE), 0.3, k=k)
        whole = reference.principal(ONE, START, 0.3)
        assert np.allclose(vector(found.field), whole) == close


def test_top_directions_of_a_network():
    model, loss = mlp()
    whole = principal_flow(model, loss, 0.5)
    some = principal_flow(model, loss, 0.5, k=20)
    plain = -vector(dynamics.gradient(model, loss))
    error = [np.linalg.norm(vector(whole.field) - z) for z in (vector(some.field), plain)]
    assert error[0] < 0.2 * error[1]
    u = some.eigenvalues.abs()
    assert_close(u, whole.eigenvalues.abs().sort(descending=True).values[:20], rtol=1e-6)


@pytest.mark.parametrize("make", [vision_transformer, text_classifier, resnet])
def test_flow_of_other_networks(make):
    model, loss = make()
    found = principal_flow(model.eval(), loss, 0.01, k=2, third_order=make is not resnet)
    assert set(found.field) == {name for name, _ in model.named_parameters()}
    assert np.isfinite(vector(found.field)).all()


def test_a_model_with_many_parameters_needs_a_number_of_directions():
    model = nn.Linear(50, 50)
    with pytest.raises(ValueError, match="k: expected a number of directions for a model of 2550"):
        principal_flow(model, lambda m: m(torch.ones(1, 50)).square().sum(), 0.1)
    with pytest.raises(ValueError, match="k: expected 1 to 3, the number of parameters, got 0"):
        principal_flow(Point(), loss_of(ONE), 0.1, k=0)
    with pytest.raises(ValueError, match="lr: expected a positive step size, got 0"):
        principal_flow(Point(), loss_of(ONE), 0.0)


# ---- stability


WORDS = {
    -1.0: "escapes",
    0.0: "stays",
    0.5: "decays",
    1.0: "decays in one step",
    1.5: "oscillates and decays",
    2.0: "oscillates",
    2.5: "oscillates and diverges",
}


@pytest.mark.parametrize("product", WORDS)
def test_behaviour_of_a_direction_is_that_of_gradient_descent(product):
    (found,) = stability([product / 0.25], 0.25)
    assert found.behaviour == WORDS[product]
    assert found.sharpness_times_lr == product
    assert found.is_stable == (0 < product < 2)
    path = [1.0]
    for _ in range(30):
        path.append((1 - product) * path[-1])
    shrinks = abs(path[-1]) < abs(path[1]) or path[1] == 0.0
    assert shrinks == found.is_stable
    oscillates = path[1] < 0
    assert oscillates == found.behaviour.startswith("oscillates")
    if product != 1.0:
        assert_close(found.growth, math.log(abs(path[10])) / (10 * 0.25))
    else:
        assert found.growth == -math.inf


def test_growth_near_zero_is_the_eigenvalue():
    (found,) = stability(torch.tensor([1e-14], dtype=torch.float64), 0.1)
    assert found.growth == pytest.approx(-1e-14, rel=1e-12, abs=0.0)


def test_stability_of_measured_eigenvalues():
    found = sharpness(Point(), loss_of(ONE), k=3)
    words = [direction.behaviour for direction in stability(found, 1.5)]
    values = np.linalg.eigvalsh(ONE.hessian(START))[::-1]
    assert words == [stability([value], 1.5)[0].behaviour for value in values]
    with pytest.raises(ValueError, match="eigenvalues: expected finite numbers, got nan"):
        stability([math.nan], 0.1)
    with pytest.raises(ValueError, match="lr: expected a positive step size"):
        stability([1.0], -0.1)


# ---- the monitor


def test_monitor_reads_sharpness_threshold_and_curvature():
    monitor = SharpnessMonitor()
    found = monitor.update(Point(), loss_of(ONE), lr=0.25)
    g = ONE.gradient(START)
    hessian = ONE.hessian(START)
    assert_close(found.sharpness, np.linalg.eigvalsh(hessian)[-1])
    assert_close(found.curvature, np.linalg.norm(hessian @ g) / np.linalg.norm(g))
    assert_close(found.loss, ONE.loss(START))
    assert found.threshold == 8.0
    assert found.is_stable
    assert not monitor.update(Point(), loss_of(ONE), lr=2.0).is_stable


def test_later_updates_are_cheaper():
    model, loss = vision_transformer()
    monitor = SharpnessMonitor()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        monitor.update(model, loss, lr=1e-3)
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    frame = monitor.to_frame()
    assert frame["n_products"].iloc[1] < frame["n_products"].iloc[0]
    assert frame["n_products"].iloc[0] <= 40
    exact = sharpness(model, loss, tolerance=1e-8).largest
    assert monitor.update(model, loss, 1e-3).sharpness == pytest.approx(exact, rel=1e-3)


def test_full_batch_training_ends_at_the_edge_of_stability():
    """Cohen et al. (2021): the sharpness rises to 2/h and stays near it."""
    torch.manual_seed(0)
    layers = (nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 3))
    model = nn.Sequential(*layers).double()
    x = torch.randn(40, 6).double()
    target = nn.functional.one_hot(torch.randint(0, 3, (40,)), 3).double()

    def loss(m):
        return 0.5 * (m(x) - target).square().sum(dim=1).mean()

    lr = 0.3
    monitor = SharpnessMonitor(tolerance=1e-2)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for step in range(1201):
        if step % 200 == 0:
            monitor.update(model, loss, lr)
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    frame = monitor.to_frame()
    assert frame["sharpness"].iloc[0] < 0.5 * 2 / lr
    assert frame["sharpness"].iloc[-4:].mean() == pytest.approx(2 / lr, rel=0.05)
    assert frame["loss"].is_monotonic_decreasing


def test_monitor_on_a_resnet_and_at_a_stationary_point():
    model, loss = resnet()
    with pytest.raises(RuntimeError, match="no batch normalisation in training mode"):
        SharpnessMonitor().update(model, loss, 0.1)
    running = SharpnessMonitor(batch_norm="running").update(model, loss, 0.1)
    assert running.sharpness == pytest.approx(sharpness(model.eval(), loss).largest, rel=1e-3)
    here = SharpnessMonitor().update(Point([0.0] * 3), lambda p: p().square().sum(), 0.1)
    assert math.isnan(here.curvature)
    assert here.sharpness == pytest.approx(2.0)


def test_sharpness_and_flow_under_autocast():
    net, _ = mlp()
    net = net.float()
    x = torch.randn(8, 5)
    loss = cross_entropy(x, torch.arange(8) % 3)
    found = sharpness(net, in_bfloat16(loss), tolerance=0.02)
    assert found.largest == pytest.approx(sharpness(net, loss).largest, rel=0.05)
    exact = principal_flow(net, loss, k=2)
    rough = principal_flow(net, in_bfloat16(loss), k=2, tolerance=0.02)
    error = np.linalg.norm(vector(rough.field) - vector(exact.field))
    assert error < 0.05 * np.linalg.norm(vector(exact.field))
