"""``measure`` in processes of one thread each, which start before they are timed."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from harness import Work
from torch import multiprocessing

import geocollapse as geo
from geocollapse.models import build

_SHAPE = (3, 32, 32)


def alone(name: str, n_images: int) -> Work:
    """``measure`` an untrained network on noise with one thread; returns geometric complexity."""
    torch.manual_seed(0)
    model = build(name, num_classes=10, input_shape=_SHAPE).eval()
    data = torch.randn(n_images, *_SHAPE), torch.arange(n_images) % 10

    def work() -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        found = geo.measure(model, data, batch_size=64, n_probes=1)
        torch.set_num_threads(threads)
        return found.geometric_complexity.value

    return work


def together(n_processes: int, name: str, n_images: int) -> Work:
    """Share the work of ``alone`` between processes that live as long as this one."""
    context = multiprocessing.get_context("spawn")
    store = tempfile.mkdtemp() + "/store"
    pipes = [context.Pipe() for _ in range(n_processes)]
    for rank, (_, theirs) in enumerate(pipes):
        arguments = (rank, n_processes, store, theirs, name, n_images)
        context.Process(target=_serve, args=arguments, daemon=True).start()

    def work() -> float:
        for ours, _ in pipes:
            ours.send(None)
        values = [ours.recv() for ours, _ in pipes]
        return values[0]

    return work


def _serve(
    rank: int, n_processes: int, store: str, pipe: Connection, name: str, n_images: int
) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=n_processes
    )
    work = alone(name, n_images)
    with suppress(EOFError):  # the benchmark has ended
        while True:
            pipe.recv()
            pipe.send(work())
