"""Does bf16 or `torch.compile` make a training step faster on this CPU? Ratios to the plain step.

    OMP_NUM_THREADS=1 python benchmarks/faster_steps.py [--rounds 5]

A VGG-13 of the preset `reduced` (width 16, batch norm, batch 128, channels last) steps in four
ways, interleaved, on one thread in processor time; five steps a round, the median round counts.
Compiling is timed apart: it is the time of the first step above that of a plain one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from geocollapse.models import build

WAYS = ("float32", "bf16", "compiled", "compiled bf16")
N_STEPS = 5


def stepper(way: str) -> Callable[[], None]:
    """One training step of a fresh network, the same images each time."""
    torch.manual_seed(0)
    model = build("vgg13", num_classes=10, input_shape=(3, 32, 32), width=16)
    model = model.to(memory_format=torch.channels_last)
    forward: nn.Module = torch.compile(model) if way.startswith("compiled") else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images = torch.randn(128, 3, 32, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(128) % 10

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=way.endswith("bf16")):
            loss = nn.functional.cross_entropy(forward(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description="bf16 and torch.compile against the plain step")
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    steps = {way: stepper(way) for way in WAYS}
    first = {}
    for way, step in steps.items():
        started = time.perf_counter()
        step()
        first[way] = time.perf_counter() - started
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, step in steps.items():
            started = time.process_time()
            for _ in range(N_STEPS):
                step()
            seconds[way].append((time.process_time() - started) / N_STEPS)
    plain = statistics.median(seconds["float32"])
    for way in WAYS:
        ratio = statistics.median(seconds[way]) / plain
        print(f"{way:14} ratio {ratio:5.2f}   first step {first[way]:6.1f} s")


if __name__ == "__main__":
    main()
