"""Slow float64 references of weight penalties and the transfer inequality."""

import torch
from torch import nn


def spectral_norm(weight, n_iterations=5000):
    """The largest singular value, as the root of the largest eigenvalue of W^T W."""
    w = weight.detach().double().flatten(1)
    v = torch.ones(w.shape[1], dtype=torch.float64) + 1e-3 * torch.arange(w.shape[1])
    for _ in range(n_iterations):
        v = w.T @ (w @ v)
        v = v / v.norm()
    return float((w @ v).norm())


def transfer_sides(model, x, scalar):
    """Left and right side at one example x (d,), with whole Jacobians of every layer."""

    def up_to(index):
        return lambda z: nn.Sequential(*list(model)[: index + 1])(z[None])[0]

    x = x.detach().requires_grad_()
    f = scalar(model(x[None]))[0]
    of_x = torch.autograd.grad(f, x, retain_graph=True)[0]
    of_theta = torch.autograd.grad(f, list(model.parameters()))
    factor = 0.0
    for index, layer in enumerate(model):
        if isinstance(layer, nn.Linear):
            a = torch.autograd.functional.jacobian(up_to(index), x.detach())
            h = up_to(index - 1)(x.detach()) if index else x.detach()
            one = 1.0 if layer.bias is not None else 0.0
            size = torch.linalg.svdvals(a)[0] ** 2
            factor += float((one + h.square().sum()) / size)
    right = sum(float(g.square().sum()) for g in of_theta)
    return float(of_x.square().sum()) * factor, right
