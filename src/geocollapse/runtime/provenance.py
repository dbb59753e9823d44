"""The origin of a result: versions, device, threads, seed and code revision."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path

import torch
from typing_extensions import TypedDict

from geocollapse._version import __version__
from geocollapse.runtime.processes import share


class Provenance(TypedDict):
    """The record that stands beside every result.

    Attributes:
        geocollapse: version of the package.
        revision: commit of its source, with a `+` if files differ; null if it is installed.
        torch: version of PyTorch.
        python: version of Python.
        machine: operating system, processor and cores.
        device: that computed: `cpu`, `mps`, or the name of a GPU.
        threads: CPU threads.
        n_processes: processes that shared the work.
        seed: of probes, samples, subsets and episodes.
    """

    geocollapse: str
    revision: str | None
    torch: str
    python: str
    machine: str
    device: str
    threads: int
    n_processes: int
    seed: int


def provenance(*, seed: int, device: torch.device | str = "cpu") -> Provenance:
    """The provenance of a result made now on ``device``, by the processes of this group."""
    return {
        "geocollapse": __version__,
        "revision": _revision(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}{_processor()}",
        "device": _device_name(torch.device(device)),
        "threads": torch.get_num_threads(),
        "n_processes": share()[1],
        "seed": seed,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@cache
def _processor() -> str:
    """The name of the processor and the number of its cores, where Linux says them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f", {names[0]}, {len(names)} cores" if names else ""


@cache
def _revision() -> str | None:
    """The commit of a source checkout, with a ``+`` if files differ; None if installed."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return None
    try:
        revision = _git(root, "rev-parse", "--short=12", "HEAD")
        return revision + (
            "+" if _git(root, "status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
