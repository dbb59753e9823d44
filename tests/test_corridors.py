"""Corridors: laws of siblings A for the diagnostics, and their monitor."""

import math

import numpy as np
import pytest
import torch
from laws import assert_close, assert_order
from reference import dynamics as reference
from reference.dynamics import ONE, START

from geocollapse import dynamics
from geocollapse.dynamics import CorridorMonitor, corridor_diagnostics
from geocollapse.estimate import GeocollapseWarning
from landscapes import (
    Point,
    cross_entropy,
    in_bfloat16,
    loss_of,
    mlp,
    resnet,
    text_classifier,
    vector,
)
from landscapes import vision_transformer as vit


def cone(point):
    return 3 * point().norm()


def test_diagnostics_are_those_derived_by_hand():
    h = 0.1
    g = ONE.gradient(START)
    found = corridor_diagnostics(Point(), loss_of(ONE), lr=h)
    fall = h * g @ g
    after = ONE.gradient(START - h * g)
    assert_close(found.loss, ONE.loss(START))
    assert_close(found.speed, np.linalg.norm(g))
    assert_close(found.drift_ratio, h * np.linalg.norm(ONE.hessian(START) @ g) / (2 * found.speed))
    defect = abs(ONE.loss(START - h * g) - (ONE.loss(START) - fall)) / fall
    assert_close(found.linearity_defect, defect)
    assert_close(found.straightness, g @ after / found.speed / np.linalg.norm(after))
    assert_close(found.corridor_lr, found.loss / found.speed**2)
    assert found.lr == h
    assert corridor_diagnostics(Point(), loss_of(ONE), straightness=False).straightness is None


def test_a_cone_is_a_corridor_though_it_is_curved():
    found = corridor_diagnostics(Point(), cone, lr=0.05)
    assert found.drift_ratio < 1e-12
    assert found.linearity_defect < 1e-12
    assert found.straightness == pytest.approx(1.0)
    assert abs(float(dynamics.sharpness(Point(), cone).largest)) > 1.0
    with dynamics.landscape(Point(), cone) as here:
        end = dynamics.flow(here.descent, here.point, 0.1, n_steps=20)
        fall = float(here.value() - here.value(end))
    assert fall == pytest.approx(0.1 * found.speed**2)  # E falls linearly


def test_a_straight_quadratic_is_no_corridor():
    def along_an_axis(point):
        return (point() * torch.tensor([1.0, 2.0, 3.0]).double()).square().sum()

    point = Point([0.7, 0.0, 0.0])
    found = corridor_diagnostics(point, along_an_axis, lr=0.1)
    assert found.straightness == pytest.approx(1.0)
    assert found.drift_ratio == pytest.approx(0.1)
    assert found.linearity_defect == pytest.approx(0.1)


def drift_error(coefficient):
    """How far the drift ratio is from the distance between a step and the flow."""

    def error(h):
        g = ONE.gradient(START)
        step = START - h * g
        flow = reference.follow(lambda x: -ONE.gradient(x), START, h)
        found = corridor_diagnostics(Point(), loss_of(ONE), lr=h).drift_ratio
        measured = np.linalg.norm(step - flow) / (h * np.linalg.norm(g))
        return abs(measured - coefficient * found)

    return error


def test_drift_ratio_is_the_drift_of_a_step_from_the_flow():
    assert_order(drift_error(1.0), 2)
    assert_order(drift_error(2.0), 1)  # the wrong coefficient


def test_linearity_defect_is_half_the_curvature_along_the_gradient():
    g = ONE.gradient(START)
    slope = abs(g @ ONE.hessian(START) @ g) / (2 * g @ g)

    def error(h, coefficient=1.0):
        found = corridor_diagnostics(Point(), loss_of(ONE), lr=h).linearity_defect
        return abs(found - coefficient * h * slope)

    steps = (0.04, 0.02, 0.01)
    assert_order(error, 2, steps)
    assert_order(lambda h: error(h, 2.0), 1, steps)  # the wrong coefficient


def test_scaling_the_loss_and_the_rate():
    one = corridor_diagnostics(Point(), loss_of(ONE), lr=0.1)
    other = corridor_diagnostics(Point(), lambda p: 7 * loss_of(ONE)(p), lr=0.1 / 7)
    assert_close(other.drift_ratio, one.drift_ratio)
    assert_close(other.linearity_defect, one.linearity_defect)


@pytest.mark.parametrize("make", [mlp, vit, text_classifier])
def test_methods_agree_on_networks(make):
    model, loss = make()
    found = [
        corridor_diagnostics(model, loss, method=method).drift_ratio
        for method in ("double_backward", "forward_over_reverse", "finite_difference")
    ]
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-6)


def test_a_resnet_is_refused_in_training_mode_and_measured_otherwise():
    model, loss = resnet()
    with pytest.raises(RuntimeError, match="no batch normalisation in training mode"):
        corridor_diagnostics(model, loss)
    running = corridor_diagnostics(model, loss, batch_norm="running")
    assert running == corridor_diagnostics(model.eval(), loss)


def test_diagnostics_under_autocast():
    net, _ = mlp()
    net = net.float()
    x = torch.randn(8, 5)
    loss = cross_entropy(x, torch.arange(8) % 3)

    exact = corridor_diagnostics(net, loss)
    found = corridor_diagnostics(net, in_bfloat16(loss))
    assert found.drift_ratio == pytest.approx(exact.drift_ratio, rel=0.05)
    assert found.speed == pytest.approx(exact.speed, rel=0.05)


def test_a_stationary_point_is_undefined_with_a_warning():
    point = Point([0.0, 0.0, 0.0])
    with pytest.warns(GeocollapseWarning, match="corridor: the gradient is zero"):
        found = corridor_diagnostics(point, lambda p: p().square().sum())
    assert found.speed == 0.0
    undefined = (found.drift_ratio, found.linearity_defect, found.straightness, found.corridor_lr)
    assert all(map(math.isnan, undefined))


def test_a_step_out_of_the_domain_has_an_infinite_defect():
    found = corridor_diagnostics(Point([0.1, 0.1, 0.1]), lambda p: -p().log().sum(), lr=1.0)
    assert found.linearity_defect < math.inf
    found = corridor_diagnostics(Point([0.1, 0.1, 0.1]), lambda p: p().log().sum(), lr=1.0)
    assert found.linearity_defect == math.inf
    assert math.isnan(found.straightness)


@pytest.mark.parametrize("lr", [0.0, -1.0, math.nan, math.inf])
def test_bad_rates_are_refused(lr):
    with pytest.raises(ValueError, match="lr: expected a positive step size"):
        corridor_diagnostics(Point(), cone, lr=lr)
    with pytest.raises(ValueError, match="lr: expected a positive step size"):
        CorridorMonitor(lr=lr)


# ---- the monitor


def train(model, loss, monitor, n_steps, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    points = []
    for _ in range(n_steps):
        monitor.update(model, loss)
        points.append(np.concatenate([p.detach().flatten().numpy() for p in model.parameters()]))
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    return np.stack(points)


def test_monitor_follows_the_path():
    point = Point()
    monitor = CorridorMonitor(lr=0.1)
    points = train(point, loss_of(ONE), monitor, 6, lr=0.2)
    moves = np.linalg.norm(np.diff(points, axis=0), axis=1)
    last = monitor.records[-1]
    assert last.step == 5
    assert_close(last.path, moves.sum())
    assert_close(last.distance, np.linalg.norm(points[-1] - points[0]))
    assert_close(last.path_straightness, last.distance / last.path)
    g, h = (ONE.gradient(points[k]) for k in (4, 5))
    assert_close(last.turn, g @ h / np.linalg.norm(g) / np.linalg.norm(h))
    assert math.isnan(monitor.records[0].turn)
    assert math.isnan(monitor.records[0].path_straightness)
    here = corridor_diagnostics(Point(points[3]), loss_of(ONE))
    assert_close(monitor.records[3].drift_ratio, here.drift_ratio)


def test_monitor_as_a_frame():
    model, loss = mlp()
    monitor = CorridorMonitor(lr=0.1)
    train(model, loss, monitor, 4, lr=0.1)
    frame = monitor.to_frame()
    assert list(frame["step"]) == [0, 1, 2, 3]
    assert frame["loss"].is_monotonic_decreasing
    assert {"drift_ratio", "linearity_defect", "speed", "turn", "path_straightness"} <= {*frame}
    assert frame["path_straightness"].iloc[-1] <= 1.0 + 1e-12


def test_monitor_leaves_the_model_alone():
    model, loss = mlp()
    other, _ = mlp()
    train(model, loss, CorridorMonitor(), 5, lr=0.1)

    class Silent:
        def update(self, *_):
            pass

    train(other, loss, Silent(), 5, lr=0.1)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_flow_in_a_corridor_keeps_its_gradient():
    point = Point()
    with dynamics.landscape(point, cone) as here:
        end = dynamics.flow(here.descent, here.point, 0.05, n_steps=10)
        assert_close(vector(here.gradient(end)), vector(here.gradient()))
