"""Fitting a Morse network beside a plain loop of logistic regression on the same features."""

from __future__ import annotations

from collections.abc import Callable

import torch
from harness import Row, Work

from geocollapse import morse

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


ROWS = tuple(
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
