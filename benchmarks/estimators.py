"""``python benchmarks/estimators.py``: variance and cost of every estimator of ||J||_F^2.

On the trained networks, the whole Jacobian of a few images gives the variance of each estimator
by its formula, without sampling noise; the cost is timed beside a bare forward pass. Prints a
table, and stores it with a figure for the docs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from harness import RESULTS, Machine, Work, machine, timed
from models import NETWORKS, images, trained
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from geocollapse.features import FeatureMap, find_embedding
from geocollapse.jacobian import Estimator, ProbePlan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "variance_cost.png"
N_IMAGES = 16  # whole Jacobians
N_TIMED = 64
REPEATS = 15
TICKS = (0.3, 0.5, 1, 2, 4, 8)
COLOURS = ("#0072B2", "#D55E00", "#009E73")
Sampling = Literal["whole_data", "sample"]  # the properties of an Entry that are drawn
METHODS: tuple[tuple[str, Estimator, int], ...] = (
    ("rademacher", "rademacher", 1),
    ("aligned", "aligned", 1),
    ("gaussian", "gaussian", 1),
    ("orthogonal, 1", "orthogonal", 1),
    ("orthogonal, 4", "orthogonal", 4),
    ("rademacher, 4", "rademacher", 4),
    ("aligned, 4", "aligned", 4),
    ("input", "input", 1),
    ("outputs, 1", "outputs", 1),
    ("outputs, 16", "outputs", 16),
)


@dataclass(frozen=True)
class Entry:
    """One estimator on one network; variances are relative to the squared mean of ||J||_F^2.

    Attributes:
        within: variance of the estimate of one example, given the example.
        between: variance of ||J||_F^2 between examples.
        cost: time of an example's forward pass and probes, in units of a bare forward pass.
    """

    network: str
    method: str
    within: float
    between: float
    cost: float
    machine: Machine

    @property
    def whole_data(self) -> float:
        """Variance times cost where every example is probed, so that only probes add variance."""
        return self.within * self.cost

    @property
    def sample(self) -> float:
        """Variance times cost where a small sample is probed, so that examples add theirs."""
        return (self.within + self.between) * self.cost


def whole_jacobians(f: FeatureMap, x: Tensor) -> Tensor:
    """J (n, p, d) of each image, float64: one vector-Jacobian product for each output."""
    leaf = x.clone().requires_grad_()
    features = f(leaf)
    rows = []
    for output in range(features.shape[1]):
        (row,) = torch.autograd.grad(features[:, output].sum(), leaf, retain_graph=True)
        rows.append(row.flatten(1))
    return torch.stack(rows, dim=1).double()


def variances(jacobians: Tensor, basis: Tensor) -> Callable[[str, int], Tensor]:
    """Return a function for the variance of the mean of r probes (n,), by definitions 1."""
    a = jacobians @ jacobians.mT
    p = a.shape[1]
    traces = a.diagonal(dim1=1, dim2=2).sum(dim=1)
    norms = a.square().sum(dim=(1, 2))

    def of(estimator: str, r: int) -> Tensor:
        if estimator == "rademacher":
            return 2 * (norms - a.diagonal(dim1=1, dim2=2).square().sum(dim=1)) / r
        if estimator == "aligned":
            m = torch.cat([basis, torch.eye(p, dtype=basis.dtype) - basis @ basis.mT], dim=1)
            s = m.mT @ a @ m
            diagonal = s.diagonal(dim1=1, dim2=2)
            return 2 * (s.square().sum(dim=(1, 2)) - diagonal.square().sum(dim=1)) / r
        if estimator == "gaussian":
            return 2 * norms / r
        if estimator == "orthogonal":
            return 2 * p / (p + 2) * (norms - traces.square() / p) / r * (p - r) / (p - 1)
        if estimator == "input":
            return 2 * (norms - jacobians.square().sum(dim=1).square().sum(dim=1)) / r
        return (1 - r / p) * (p * a.diagonal(dim1=1, dim2=2)).var(dim=1) / r

    return of


def measured(name: str) -> Iterator[Entry]:
    """Measure every estimator on one network."""
    model = trained(name)
    x, _ = images()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    f = FeatureMap(model, [find_embedding(model, x[:1]).layer])
    fitting = f.enter(x[order[:256]])
    timed = f.enter(x[order[:N_TIMED]])
    basis = ProbePlan("aligned").fitted(*fitting).bases[0].double()
    jacobians = whole_jacobians(f, x[order[:N_IMAGES]])
    values = jacobians.square().sum(dim=(1, 2))
    of = variances(jacobians, basis)
    forward = _seconds(lambda: _forward(model, x[order[:N_TIMED]]))
    for method, estimator, r in METHODS:
        plan = ProbePlan(estimator, 0).fitted(*fitting)
        seconds = _seconds(lambda: plan.probe(*timed, order[:N_TIMED], r))  # noqa: B023
        within = float(of(estimator, r).mean() / values.mean() ** 2)
        yield Entry(
            name,
            method,
            within,
            float(values.var() / values.mean() ** 2),
            seconds / forward,
            machine(),
        )


@torch.no_grad()
def _forward(model: nn.Module, x: Tensor) -> None:
    model(x)


def _seconds(work: Work) -> float:
    """Median time of the accelerator, or of the processor, which other programs disturb less."""
    work()
    clock = timed if torch.cuda.is_available() else _processor_time
    return statistics.median(clock(work) for _ in range(REPEATS))


def _processor_time(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def show(entries: list[Entry]) -> None:
    """Print variances in percent of the squared mean, and products against one rademacher probe."""
    table = Table("network", "estimator", "within, %", "between, %", "cost", "whole data", "sample")
    for entry in entries:
        base = next(e for e in entries if e.network == entry.network and e.method == "rademacher")
        table.add_row(
            entry.network,
            entry.method,
            f"{100 * entry.within:.2f}",
            f"{100 * entry.between:.2f}",
            f"{entry.cost:.2f}",
            f"{entry.whole_data / base.whole_data:.2f}",
            f"{entry.sample / base.sample:.2f}",
        )
    Console(width=110).print(table)


def draw(entries: list[Entry], path: Path) -> None:
    """Draw variance times cost against one rademacher probe, a panel for each way of sampling."""
    from matplotlib.figure import Figure

    methods = [method for method, _, _ in METHODS]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = ("every example probed", "a small sample probed")
    for axis, kind, title in zip(axes, get_args(Sampling), titles, strict=True):
        _panel(axis, entries, kind)
        axis.set_title(title)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    axes[1].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _panel(axis: Axes, entries: list[Entry], kind: Sampling) -> None:
    methods = [method for method, _, _ in METHODS]
    for (name, marker), colour in zip(_markers(entries), COLOURS, strict=False):
        mine = {entry.method: getattr(entry, kind) for entry in entries if entry.network == name}
        ratios = [mine[method] / mine["rademacher"] for method in methods]
        axis.plot(ratios, range(len(methods)), marker, color=colour, label=name)
    axis.axvline(1.0, color="0.6", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.minorticks_off()
    axis.set_xlabel("variance x cost, relative to one rademacher probe")


def _markers(entries: list[Entry]) -> list[tuple[str, str]]:
    names = list(dict.fromkeys(entry.network for entry in entries))
    return list(zip(names, "os^", strict=False))


def main() -> None:
    """Measure the chosen networks, merge them with stored results, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help=", ".join(NETWORKS))
    store = RESULTS / "estimators.json"
    entries = [Entry(**entry) for entry in json.loads(store.read_text())] if store.exists() else []
    for name in parser.parse_args().names:
        entries = [entry for entry in entries if entry.network != name] + list(measured(name))
        store.write_text(json.dumps([vars(entry) for entry in entries], indent=1) + "\n")
    show(entries)
    draw(entries, FIGURE)
    print(machine())


if __name__ == "__main__":
    main()
