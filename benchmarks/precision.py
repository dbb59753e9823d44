"""Change of the measures in lower precision, at the same examples and probes as in float64.

    python benchmarks/precision.py
        # after `make bench-models`; prints a table, writes results/precision.json

The difference in geometric complexity is a mean of paired differences, one for each example. Its
standard error does not contain that of the sample of examples.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

import torch
from harness import RESULTS, machine
from models import NETWORKS, images, trained
from rich.console import Console
from rich.table import Table

import geocollapse as geo

_MODES: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "float32": (torch.float32, None),
    "bfloat16 autocast": (torch.float32, torch.bfloat16),
    "float16 autocast": (torch.float32, torch.float16),
    "bfloat16 model": (torch.bfloat16, None),
}


@dataclass(frozen=True)
class Bias:
    """Relative differences from float64.

    Attributes:
        network: its name.
        mode: the lower precision.
        complexity: of geometric complexity.
        complexity_stderr: of that difference, over the examples.
        interval: half-width of the 95 % interval of geometric complexity itself, relative.
        collapse: of geometric collapse.
        cdnv: of CDNV.
        nc1: of NC1.
    """

    network: str
    mode: str
    complexity: float
    complexity_stderr: float
    interval: float
    collapse: float
    cdnv: float
    nc1: float


def biases(network: str, n_images: int) -> list[Bias]:
    """Compare every precision with float64 on one trained network."""
    model = trained(network)
    x, y = images()
    rows = (torch.arange(n_images) * len(x)) // n_images
    x = x[rows]
    y = y[rows]
    exact = geo.measure(model.double(), (x.double(), y))
    found = []
    for mode, (dtype, autocast) in _MODES.items():
        lower = geo.measure(trained(network).to(dtype), (x, y), autocast=autocast)
        found.append(_bias(network, mode, lower, exact))
    return found


def _bias(network: str, mode: str, lower: geo.Measurement, exact: geo.Measurement) -> Bias:
    gc = exact.geometric_complexity
    other = lower.geometric_complexity
    differences = (other.values - gc.values) / gc.value
    low, high = gc.interval()
    return Bias(
        network,
        mode,
        float(differences.mean()),
        float(differences.std()) / len(differences) ** 0.5,
        (high / low) ** 0.5 - 1.0,
        lower.geometric_collapse.value / exact.geometric_collapse.value - 1.0,
        lower.cdnv / exact.cdnv - 1.0,
        lower.nc1 / exact.nc1 - 1.0,
    )


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    n_images = parser.parse_args().images
    torch.set_num_threads(1)
    found = [bias for network in NETWORKS for bias in biases(network, n_images)]
    columns = ("network", "precision", "GC", "GC's interval", "geometric collapse", "CDNV", "NC1")
    table = Table(*columns, title=f"relative difference from float64, {n_images} images")
    for bias in found:
        gc = f"{bias.complexity:+.1e} ± {bias.complexity_stderr:.0e}"
        others = (f"{value:+.1e}" for value in (bias.collapse, bias.cdnv, bias.nc1))
        table.add_row(bias.network, bias.mode, gc, f"± {bias.interval:.1%}", *others)
    Console(width=120).print(table)
    stored = {"machine": machine(), "n_images": n_images, "rows": [asdict(b) for b in found]}
    text = json.dumps(stored, indent=1)
    (RESULTS / "precision.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
