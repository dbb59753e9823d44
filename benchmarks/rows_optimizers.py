"""Comparisons of optimizers' steps with torch's own."""

from __future__ import annotations

import torch
from harness import Row, Work
from torch import Tensor, nn

from geocollapse.models import build
from geocollapse.optimizers import DAL, Corridor


def _with_gradients() -> nn.Module:
    """VGG-13 of width 32 with a gradient at each parameter."""
    torch.manual_seed(0)
    model = build("vgg13", num_classes=10, input_shape=(3, 32, 32), width=32)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def _norm_and_step(model: nn.Module, sgd: torch.optim.SGD, *, foreach: bool) -> None:
    """The norm of the gradient, read on the CPU, and a step of SGD."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    float(nn.utils.get_total_norm(gradients, foreach=foreach))
    sgd.step()


def _corridor_step(n_steps: int, *, foreach: bool) -> tuple[Work, Work]:
    """Steps with the corridor learning rate, and SGD's steps after the norm of the gradient."""
    ours, theirs = _with_gradients(), _with_gradients()
    corridor = Corridor(ours.parameters(), foreach=foreach)
    sgd = torch.optim.SGD(theirs.parameters(), lr=1e-6, foreach=foreach)
    loss = torch.tensor(1e-6)

    def step() -> None:
        for _ in range(n_steps):
            corridor.step(loss=loss)

    def baseline() -> None:
        for _ in range(n_steps):
            _norm_and_step(theirs, sgd, foreach=foreach)

    return step, baseline


def _dal_step(n_steps: int) -> tuple[Work, Work]:
    """Steps of DAL between two products, and SGD's after the same loss and the gradient's norm."""
    ours, theirs = _with_gradients(), _with_gradients()
    inputs = torch.randn(8, 3, 32, 32)
    labels = torch.arange(8)
    dal = DAL(ours.parameters(), every=10**9, max_lr=1e-6, foreach=True)
    sgd = torch.optim.SGD(theirs.parameters(), lr=1e-6, foreach=True)

    def loss_of(model: nn.Module) -> Tensor:
        return nn.functional.cross_entropy(model(inputs), labels)

    dal.step(lambda: loss_of(ours))  # the step with the product

    def step() -> None:
        for _ in range(n_steps):
            dal.step(lambda: loss_of(ours))

    def baseline() -> None:
        for _ in range(n_steps):
            sgd.zero_grad()
            loss_of(theirs).backward()
            _norm_and_step(theirs, sgd, foreach=True)

    return step, baseline


ROWS = (
    Row(
        "corridor-step",
        "100 steps of Corridor, VGG-13 width 32",
        "gradient norm and SGD's foreach step, 1 thread",
        1.15,
        lambda: _corridor_step(100, foreach=True),
        repeats=15,
        single=True,
    ),
    Row(
        "corridor-loop-step",
        "100 steps of Corridor, foreach=False, VGG-13 width 32",
        "gradient norm and SGD's step, foreach=False, 1 thread",
        1.15,
        lambda: _corridor_step(100, foreach=False),
        repeats=15,
        single=True,
    ),
    Row(
        "dal-step",
        "10 steps of DAL between products, VGG-13 width 32, batch 8",
        "loss, backward, gradient norm and SGD's foreach step, 1 thread",
        1.15,
        lambda: _dal_step(10),
        repeats=15,
        single=True,
    ),
)
