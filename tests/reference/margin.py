"""Slow float64 references of margins, written as their formulas read, one example at a time."""

import torch
from reference.complexity import squared_norms


def margins(logits, labels):
    """f_y - max_{j != y} f_j of each example."""
    found = []
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        others = [float(z) for j, z in enumerate(row) if j != label]
        found.append(float(row[label]) - max(others))
    return torch.tensor(found, dtype=torch.float64)


def ramp(margin, gamma):
    """clip(1 - m/gamma, 0, 1) of one margin."""
    return min(1.0, max(0.0, 1.0 - margin / gamma))


def quantile(values, share):
    """The share quantile, interpolated between the order statistics around (n - 1) share."""
    ordered = sorted(float(v) for v in values)
    place = share * (len(ordered) - 1)
    below = int(place)
    rest = place - below
    above = min(below + 1, len(ordered) - 1)
    return (1 - rest) * ordered[below] + rest * ordered[above]


def margin_complexity(f, x, labels, share):
    """GC of the logits over the squared margin at the share quantile."""
    with torch.no_grad():
        gamma = quantile(margins(f(x.double()), labels), share)
    return float(squared_norms(f, x).mean()) / gamma**2
