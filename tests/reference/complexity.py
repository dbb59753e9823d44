"""Slow float64 references of geometric complexity: whole Jacobians, one example at a time."""

import torch


def jacobian(f, x):
    """Jacobian (p, d) of one example by reverse-mode differentiation of each output."""
    x = x.detach().clone().double().requires_grad_()
    out = f(x[None].clone())[0].flatten()
    rows = [torch.autograd.grad(out[i], x, retain_graph=True)[0].flatten() for i in range(len(out))]
    return torch.stack(rows)


def squared_norms(f, x):
    """||J||_F^2 of each example (n,)."""
    return torch.stack([jacobian(f, row).square().sum() for row in x])


def finite_difference_squared_norms(f, x, step=1e-5):
    """||J||_F^2 by central differences: shares nothing with automatic differentiation."""
    total = torch.zeros(len(x), dtype=torch.float64)
    for coordinate in range(x[0].numel()):
        e = torch.zeros(x[0].numel(), dtype=torch.float64)
        e[coordinate] = step
        e = e.view_as(x[0])
        column = (f(x.double() + e) - f(x.double() - e)) / (2 * step)
        total += column.flatten(1).square().sum(dim=1)
    return total


def probe_variance(f, x, kind):
    """Variance of one probe of each example by the formulas of definitions 1, from the Jacobian."""
    values = []
    for row in x:
        a = jacobian(f, row) @ jacobian(f, row).T
        p = len(a)
        if kind == "gaussian":
            values.append(2 * a.square().sum())
        elif kind == "rademacher":
            values.append(2 * (a.square().sum() - a.diagonal().square().sum()))
        elif kind == "orthogonal":
            values.append(2 * p / (p + 2) * (a.square().sum() - a.trace() ** 2 / p))
        elif kind == "input":
            b = jacobian(f, row).T @ jacobian(f, row)
            values.append(2 * (b.square().sum() - b.diagonal().square().sum()))
        elif kind == "outputs":
            values.append((p * a.diagonal()).var(unbiased=True) * (1 - 1 / p))
    return torch.stack(values)


def aligned_variance(f, x, basis):
    """Variance of one aligned probe of each example: signs along M = [Q, I - Q Q^T]."""
    basis = basis.double()
    m = torch.cat([basis, torch.eye(len(basis)).double() - basis @ basis.T], dim=1)
    values = []
    for row in x:
        s = m.T @ jacobian(f, row) @ jacobian(f, row).T @ m
        values.append(2 * (s.square().sum() - s.diagonal().square().sum()))
    return torch.stack(values)


def masked_variance(f, x, n_entries):
    """Variance of the masked estimate of each example: N^2/K (1 - K/N) S_E^2 (definitions 1)."""
    squares = [jacobian(f, row).square().flatten() for row in x]
    n = len(squares[0])
    return torch.stack(
        [n**2 / n_entries * (1 - n_entries / n) * entry.var(unbiased=True) for entry in squares]
    )
