"""Morse networks: the fit beside logistic regression, and `geocollapse ood` beside bare passes.

The row `ood` takes the public CIFAR-10 ResNet-20 from the folder ``CHECKPOINTS=FOLDER``, and the
data from GEOCOLLAPSE_DATA.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import torch
from harness import Row, Work

from geocollapse import models, morse
from geocollapse.cli import main

N, P, CLASSES = 50_000, 512, 10
BATCH = 256
STEPS = 1500  # the default


def _work(labelled: bool) -> Callable[[], tuple[Work, Work]]:
    def prepare() -> tuple[Work, Work]:
        generator = torch.Generator().manual_seed(0)
        y = torch.randint(CLASSES, (N,), generator=generator)
        means = torch.randn(CLASSES, P, generator=generator)
        x = means[y] + torch.randn(N, P, generator=generator)
        # no early stop: both take all steps; the held-out share is looked at, as by default
        settings = morse.FitSettings(n_steps=STEPS, batch_size=BATCH, patience=STEPS)

        def ours() -> None:
            map = torch.nn.Linear(P, CLASSES)
            if labelled:
                morse.MorseClassifier(map, CLASSES).fit(x, y, settings=settings)
            else:
                morse.MorseNetwork(map).fit(x, settings=settings)

        def theirs() -> None:
            model = torch.nn.Linear(P, CLASSES)
            optimizer = torch.optim.Adam(model.parameters())
            for _ in range(STEPS):
                rows = torch.randint(N, (BATCH,))
                loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return ours, theirs

    return prepare


def _ood(*options: str) -> tuple[Work, Work]:
    """The command at its defaults, without the cache; the passes of the same images alone."""
    weights = Path(os.environ.get("CHECKPOINTS", "")) / "resnet20-12fca82f.th"
    if not weights.is_file():
        raise FileNotFoundError(f"weights: expected {weights}; do CHECKPOINTS=FOLDER make bench")
    factory = f"{Path(__file__).parents[1]}/examples/cifar_resnet.py:resnet20"
    loaded = models.load(factory, weights=weights)
    subset = int(options[1]) if options else None
    images = [
        models.prepare(loaded, name, split="test", subset=subset).inputs
        for name in ("cifar10", "cifar100")
    ]
    command = ["ood", f"{factory}@{weights}", "cifar10", "--against", "cifar100", *options]

    def ours() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            status = main([*command, "--no-cache", "--quiet"])
        if status:
            raise RuntimeError(f"ood: expected status 0, got {status}")

    def theirs() -> None:
        with torch.inference_mode():
            for one in images:
                for batch in one.split(BATCH):
                    loaded.model(batch)

    loaded.model.eval()
    return ours, theirs


_FITS = tuple(
    Row(
        name,
        f"{STEPS} steps of a Morse {kind}, {N:,} x {P}, batch {BATCH}",
        "plain logistic regression, same steps and batch, 1 thread",
        1.5,
        _work(labelled),
        repeats=7,
        single=True,
    )
    for name, kind, labelled in (
        ("morse-fit", "network", False),
        ("morse-fit-labels", "classifier", True),
    )
)

ROWS = (
    *_FITS,
    Row(
        "ood",
        "geocollapse ood, ResNet-20, 10,000 CIFAR-10 and 10,000 CIFAR-100 test images",
        "bare passes of the same images through the network, without loading anything",
        1.25,
        _ood,
        repeats=3,
    ),
)
