"""``python benchmarks/coverage.py``: share of intervals that contain the truth.

On the trained networks, four probes of every training image make a population. Probing an image
then means drawing one of its four, and the mean of all is the exact truth. Each repetition draws
images and probes anew and asks the library for its interval: of fixed samples, of samples that stop
at ``rtol``, and of geometric collapse. Prints a table, and stores it with a figure for the docs.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from harness import RESULTS, Machine, machine
from models import FOLDER, images, trained
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from geocollapse.collapse import LabelledFeatures, geometric_collapse
from geocollapse.complexity.means import mean_norm, norms_by_class
from geocollapse.complexity.probing import LARGE, probes_worth
from geocollapse.complexity.schedule import SECOND_PROBES
from geocollapse.complexity.stopping import StoppingRule, looks
from geocollapse.estimate import Estimate
from geocollapse.features import CallableMap, FeatureMap, find_embedding
from geocollapse.jacobian import ProbePlan, SquaredNorms

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "coverage.png"
N_KEPT = 4  # probes of each image
REPEATS = 4000
RTOLS = (0.05, 0.1, 0.2, 0.3)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


@dataclass(frozen=True)
class Population:
    """Single probes of ||J||_F^2 (n, 4), class labels (n,) and class means (C, p)."""

    probes: Tensor
    labels: Tensor
    means: Tensor

    @property
    def truth(self) -> Tensor:
        """||J||_F^2 of each image (n,), the mean of its probes by definition of this population."""
        return self.probes.mean(dim=1)

    def draw(
        self, rows: Tensor, r: int, generator: torch.Generator, n_pilot: int = SECOND_PROBES
    ) -> SquaredNorms:
        """Draw r independent probes of each of ``rows``.

        Of single probes some get a second for the error, as in the library: the first ``n_pilot``,
        and those above 5 times the mean.
        """
        taken = torch.randint(0, N_KEPT, (len(rows), max(r, 2)), generator=generator)
        terms = self.probes[rows[:, None], taken]
        variances = terms.var(dim=1) / r
        if r == 1:
            is_told = terms[:, 0] > LARGE * self.truth.mean()
            is_told[:n_pilot] = True
            variances[~is_told] = math.nan
        return SquaredNorms(terms[:, :r].mean(dim=1), variances, torch.full((len(rows),), r))


class Probabilities(nn.Module):
    """A classifier followed by softmax, whose norms have a heavy tail once it is trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (n, C)."""
        return self.model(x).softmax(dim=1)


def _embedding(name: str) -> FeatureMap:
    model = trained(name)
    return FeatureMap(model, [find_embedding(model, images()[0][:1]).layer])


@dataclass(frozen=True)
class Coverage:
    """Coverage of one kind of interval on one population.

    Attributes:
        population: its name.
        largest_share: the share of the largest image in the sum of all.
        experiment: how images and probes were drawn.
        coverage: share of the intervals that contain the truth.
        mean_samples: images drawn, on average.
        repeats: number of intervals.
        machine: where they were computed.
    """

    population: str
    largest_share: float
    experiment: str
    coverage: float
    mean_samples: float
    repeats: int
    machine: Machine


MAPS: dict[str, Callable[[], nn.Module | FeatureMap]] = {
    "VGG-13 embedding": lambda: _embedding("vgg13"),
    "ResNet-18 embedding": lambda: _embedding("resnet18"),
    "ViT embedding": lambda: _embedding("vit"),
    "ViT probabilities": lambda: Probabilities(trained("vit")),
}


def population(name: str) -> Population:
    """Load a population, which is measured once and then kept beside the weights."""
    path = FOLDER / f"{name.lower().replace(' ', '-')}.pt"
    if path.exists():
        return Population(**torch.load(path))
    made = MAPS[name]()
    x, y = images()
    f = made if isinstance(made, FeatureMap) else CallableMap(made)
    module = made.model if isinstance(made, FeatureMap) else made
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    terms: list[Tensor] = []
    features: list[Tensor] = []
    for rows in torch.arange(len(x)).split(100):
        probed = ProbePlan("rademacher").probe(*f.enter(x[rows]), rows, N_KEPT)
        terms.append(probed.terms[0][:, 0].T)
        features.append(probed.features[0])
    means = LabelledFeatures.of(torch.cat(features), y).statistics.means
    found = Population(torch.cat(terms), y, means)
    torch.save(vars(found), path)
    return found


def fixed(p: Population, n_samples: int, r: int, generator: torch.Generator) -> Estimate:
    """Estimate from a sample of fixed size."""
    rows = torch.randperm(len(p.labels), generator=generator)[:n_samples]
    return mean_norm(p.draw(rows, r, generator), len(p.labels), n_probes=r)


def sequential(p: Population, rtol: float, generator: torch.Generator) -> Estimate:
    """Estimate by the library's stopping rule, with more probes where they are worth their cost."""
    n = len(p.labels)
    rule = StoppingRule(rtol)
    order = torch.randperm(n, generator=generator)
    parts: list[SquaredNorms] = []
    start = 0
    r = 1
    for end in looks(n):
        parts.append(p.draw(order[start:end], r, generator, n_pilot=0 if start else SECOND_PROBES))
        norms = SquaredNorms.cat(parts)
        start = end
        estimate = mean_norm(norms, n, sequential=True)
        if rule.is_met(estimate):
            break
        r = max(r, probes_worth(norms, rule.largest_error(estimate.value), n - end, 1.0))
    return estimate


def collapse(p: Population, n_class: int, generator: torch.Generator) -> Estimate:
    """Estimate geometric collapse from ``n_class`` images of each class, two probes each."""
    order = torch.randperm(len(p.labels), generator=generator)
    rows = torch.cat([order[p.labels[order] == label][:n_class] for label in p.labels.unique()])
    counts = dict(enumerate(p.labels.bincount().tolist()))
    classes = norms_by_class(p.draw(rows, 2, generator), p.labels[rows], counts, n_probes=2)
    return geometric_collapse(list(classes.values()), p.means)


def experiments(p: Population) -> dict[str, tuple[Callable[[torch.Generator], Estimate], float]]:
    """Return each experiment with the number that its interval should contain."""
    gc = float(p.truth.mean())
    by_class = torch.stack([p.truth[p.labels == label].mean() for label in p.labels.unique()])
    gcol = float(geometric_collapse(by_class, p.means))
    n = len(p.labels)
    found: dict[str, tuple[Callable[[torch.Generator], Estimate], float]] = {}
    for n_samples, r in ((200, 1), (200, 2), (1000, 1), (n, 1), (n, 2)):
        found[f"n = {n_samples}, {r} probe{'s' if r > 1 else ''}"] = (
            lambda g, k=n_samples, r=r: fixed(p, k, r, g),
            gc,
        )
    for rtol in RTOLS:
        found[f"rtol = {rtol}"] = lambda g, rtol=rtol: sequential(p, rtol, g), gc
    for n_class in (20, 50, 200):
        found[f"GCol, {n_class} a class"] = lambda g, k=n_class: collapse(p, k, g), gcol
    return found


def covered(name: str, repeats: int) -> list[Coverage]:
    """Measure the coverage of every experiment on one population."""
    p = population(name)
    share = float(p.truth.max() / p.truth.sum())
    rows = []
    for title, (draw, truth) in experiments(p).items():
        generator = torch.Generator().manual_seed(0)
        estimates = [draw(generator) for _ in range(repeats)]
        intervals = [estimate.interval() for estimate in estimates]
        hits = sum(low <= truth <= high for low, high in intervals) / repeats
        sizes = sum(e.n_samples for e in estimates) / repeats
        rows.append(Coverage(name, share, title, hits, sizes, repeats, machine()))
    return rows


def show(rows: list[Coverage]) -> None:
    """Print the table; a coverage of 95 % over 4,000 repetitions has a standard error of 0.3 %."""
    table = Table("population", "largest share", "experiment", "coverage", "mean examples")
    for row in rows:
        table.add_row(
            row.population,
            f"{row.largest_share:.2%}",
            row.experiment,
            f"{row.coverage:.1%}",
            f"{row.mean_samples:.0f}",
        )
    Console(width=110).print(table)


def draw(rows: list[Coverage], path: Path) -> None:
    """Draw the coverage of each experiment, a colour for each population, over a shaded band."""
    from matplotlib.figure import Figure

    titles = list(dict.fromkeys(row.experiment for row in rows))
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(93, 97, color="0.92")
    axis.axvline(95, color="0.6", linewidth=0.8)
    names = list(dict.fromkeys(row.population for row in rows))
    for name, colour, marker in zip(names, COLOURS, "os^D", strict=False):
        mine = [row for row in rows if row.population == name]
        label = f"{name}, largest share {mine[0].largest_share:.2%}"
        places = [titles.index(row.experiment) for row in mine]
        shares = [100 * row.coverage for row in mine]
        axis.plot(shares, places, marker, color=colour, label=label)
    axis.set_yticks(range(len(titles)), titles)
    axis.invert_yaxis()
    axis.set_xlabel("intervals that contain the truth (%); 93 to 97 % shaded")
    figure.legend(loc="outside lower center", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the chosen populations, merge them with stored results, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(MAPS), help=", ".join(MAPS))
    parser.add_argument("--repeats", type=int, default=REPEATS)
    arguments = parser.parse_args()
    store = RESULTS / "coverage.json"
    stored = json.loads(store.read_text()) if store.exists() else []
    rows = [Coverage(**row) for row in stored]
    for name in arguments.names:
        rows = [row for row in rows if row.population != name] + covered(name, arguments.repeats)
        store.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    show(rows)
    draw(rows, FIGURE)


if __name__ == "__main__":
    main()
