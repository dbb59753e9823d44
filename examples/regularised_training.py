"""Train with a penalty on geometric complexity, each weight to the same training loss, and measure.

    python examples/regularised_training.py --out docs/figures/regularised

trains the runs that FOLDER/runs.json does not hold yet, prints a row for each weight, and draws
FOLDER/regularised.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import geocollapse as geo
from geocollapse import data, models
from geocollapse.runtime.provenance import provenance

WEIGHTS = (0.0, 1e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2, 3, 4)
TARGET = 0.1  # every run stops at this mean cross-entropy of the training images
LOOK_EVERY = 16, 1  # steps between looks at it: far from the target, and below twice the target
LEARNING_RATE = 0.02, 0.002  # likewise: small near the target, so that no run goes far beyond it
BATCH = 64
MAX_STEPS = 3000
MEASURES = ("geometric_complexity", "geometric_collapse", "cdnv", "gc_per_variance")

Run = dict[str, float]


def train(weight: float, seed: int, x: Tensor, y: Tensor) -> tuple[nn.Module, Run]:
    """SGD on cross-entropy + weight * GC down to the target; gradients are clipped to norm 1."""
    torch.manual_seed(seed)
    model = models.build(
        "vgg13", num_classes=10, input_shape=(3, 32, 32), width=8, batch_norm=False
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE[0], momentum=0.9)
    penalty = geo.GeometricComplexityPenalty(weight, seed=seed)
    started = time.process_time()
    loss = float("inf")
    is_near = False
    step = 0
    while loss > TARGET and step < MAX_STEPS:
        for rows in torch.randperm(len(x)).split(BATCH):
            logits, gc_loss = penalty(model, x[rows]) if weight > 0.0 else (model(x[rows]), 0.0)
            optimizer.zero_grad()
            (F.cross_entropy(logits, y[rows]) + gc_loss).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % LOOK_EVERY[is_near] == 0:
                loss = mean_loss(model, x, y)
                is_near = is_near or loss < 2 * TARGET
                optimizer.param_groups[0]["lr"] = LEARNING_RATE[is_near]
            if loss <= TARGET:
                break
    seconds = round(time.process_time() - started, 1)
    return model, {"training_loss": loss, "steps": step, "seconds": seconds}


@torch.no_grad()
def mean_loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Mean cross-entropy of all images."""
    return float(F.cross_entropy(torch.cat([model(part) for part in x.split(500)]), y))


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of the images that the model classifies correctly."""
    return float((model(x).argmax(dim=1) == y).float().mean())


def describe(model: nn.Module, x: Tensor, y: Tensor) -> Run:
    """The measures that are shown."""
    measured = geo.measure(model, (x, y)).to_dict()
    values = {name: measured[name] for name in MEASURES}
    return {
        name: value["value"] if isinstance(value, dict) else value for name, value in values.items()
    }


def main() -> None:
    """Train the runs that are not stored yet, print, draw."""
    arguments = parse()
    torch.set_num_threads(1)
    source, test = (
        data.load("cifar10", split=split, subset=arguments.subset, data_root=arguments.data_root)
        for split in ("train", "test")
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "runs.json"
    runs: list[Run] = json.loads(file.read_text())["runs"] if file.exists() else []
    done = {(run["weight"], run["seed"]) for run in runs}
    for seed in SEEDS:
        for weight in WEIGHTS:
            if (weight, seed) in done:
                continue
            model, run = train(weight, seed, source.inputs, source.targets)
            run = {"weight": weight, "seed": seed, **run}
            run |= describe(model, source.inputs, source.targets)
            run["test_accuracy"] = accuracy(model, test.inputs, test.targets)
            print(run, flush=True)
            runs.append(run)
            stored = {"provenance": provenance(seed=0), "runs": runs}
            file.write_text(json.dumps(stored, indent=1) + "\n")
    show(runs)
    plot(runs, arguments.out / "regularised.png")


def parse() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--subset", type=int, default=1000, help="images to train and to test on")
    parser.add_argument("--data-root", help="folder of the data sets")
    return parser.parse_args()


def show(runs: list[Run]) -> None:
    """Print mean and standard deviation over the seeds, a row for each weight."""
    table = pd.DataFrame(runs).drop(columns="seed").groupby("weight").agg(["mean", "std"])
    print(table.T.unstack().to_string(float_format="{:.3g}".format))


def plot(runs: list[Run], file: Path) -> None:
    """GC, geometric collapse and CDNV against the weight: each seed, and the geometric mean.

    Both axes are logarithmic; the weight is linear near 0.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    panels = {
        "geometric_complexity": "geometric complexity\n[(feature unit / input unit)²]",
        "geometric_collapse": "geometric collapse\n[1 / (input unit)²]",
        "cdnv": "neural collapse (CDNV)",
    }
    weights = sorted({run["weight"] for run in runs})
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 3.4), layout="constrained")
    for axis, (key, name) in zip(axes, panels.items()):
        values = torch.tensor(
            [[run[key] for run in runs if run["weight"] == weight] for weight in weights]
        )
        axis.plot(weights, values, "o", fillstyle="none", color="0.5", markersize=4)
        axis.plot(weights, values.log().mean(dim=1).exp(), ".-", color="C0")
        axis.set(yscale="log", xlabel="weight of the penalty", ylabel=name, xlim=(-3e-5, 2e-2))
        axis.set_xscale("symlog", linthresh=1e-4, subs=(3,))
        axis.set_xticks([0, 1e-4, 1e-3, 1e-2], ["0", "10⁻⁴", "10⁻³", "10⁻²"])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    figure.suptitle(
        "VGG-13 (width 8, no batch norm), CIFAR-10 subset, each run trained to cross-entropy "
        f"{TARGET:g}; circles: seeds, line: their geometric mean",
        fontsize="medium",
    )
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
