"""Training with a penalty on geometric complexity, each strength to the same training loss,
measured afterwards.

    python examples/regularised_training.py --out docs/figures/regularised

trains what is not yet in FOLDER/runs.json, prints a line for each strength and draws
FOLDER/regularised.png.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

import geocollapse as geo
from geocollapse import data, models
from geocollapse.runtime.provenance import provenance

WEIGHTS = (0.0, 1e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (0, 1, 2, 3, 4)
TARGET = 0.1  # cross-entropy of all training images at which every run is stopped
LOOK = 16, 1  # steps between looks at it: far from the target, and below twice the target
BATCH = 64
LEARNING_RATE = 0.02, 0.002  # the same: small near the target, so that no run goes far beyond it
MAX_STEPS = 3000


def train(
    weight: float, seed: int, x: torch.Tensor, y: torch.Tensor
) -> tuple[nn.Module, dict[str, Any]]:
    """SGD on cross-entropy + weight * GC until the training loss is at the target; gradients are
    clipped to norm 1.
    """
    torch.manual_seed(seed)
    model = models.build(
        "vgg13", num_classes=10, input_shape=(3, 32, 32), width=8, batch_norm=False
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE[0], momentum=0.9)
    penalty = geo.GeometricComplexityPenalty(weight, seed=seed)
    loss, is_near, step, started = float("inf"), False, 0, time.process_time()
    while loss > TARGET and step < MAX_STEPS:
        for rows in torch.randperm(len(x)).split(BATCH):
            logits, gc = penalty(model, x[rows]) if weight > 0.0 else (model(x[rows]), 0.0)
            optimizer.zero_grad()
            (F.cross_entropy(logits, y[rows]) + gc).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % LOOK[is_near] == 0:
                loss = evaluate(model, x, y)
                is_near = is_near or loss < 2 * TARGET
                optimizer.param_groups[0]["lr"] = LEARNING_RATE[is_near]
            if loss <= TARGET:
                break
    return model, {
        "training_loss": loss,
        "steps": step,
        "seconds": round(time.process_time() - started, 1),
    }


@torch.no_grad()
def evaluate(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """Mean cross-entropy of all images."""
    return float(F.cross_entropy(torch.cat([model(part) for part in x.split(500)]), y))


def describe(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    """What is shown of a measurement."""
    measured = geo.measure(model, (x, y)).to_dict()
    names = ("geometric_complexity", "geometric_collapse", "cdnv", "gc_per_variance")
    values = {name: measured[name] for name in names}
    return {
        name: value["value"] if isinstance(value, dict) else value for name, value in values.items()
    }


def main() -> None:
    """Train what is not stored yet, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subset", type=int, default=1000)
    parser.add_argument("--data-root")
    arguments = parser.parse_args()
    file = arguments.out / "runs.json"
    stored = json.loads(file.read_text()) if file.exists() else {"runs": []}
    torch.set_num_threads(1)
    source = data.load("cifar10", subset=arguments.subset, data_root=arguments.data_root)
    test = data.load(
        "cifar10", split="test", subset=arguments.subset, data_root=arguments.data_root
    )
    for seed in SEEDS:
        for weight in WEIGHTS:
            if any((run["weight"], run["seed"]) == (weight, seed) for run in stored["runs"]):
                continue
            model, run = train(weight, seed, source.inputs, source.targets)
            run = {
                "weight": weight,
                "seed": seed,
                **run,
                **describe(model, source.inputs, source.targets),
            }
            with torch.no_grad():
                run["test_accuracy"] = float(
                    (model(test.inputs).argmax(dim=1) == test.targets).float().mean()
                )
            print(run, flush=True)
            stored["runs"].append(run)
            arguments.out.mkdir(parents=True, exist_ok=True)
            file.write_text(
                json.dumps({"provenance": provenance(seed=0), **stored}, indent=1) + "\n"
            )
    show(stored["runs"])
    plot(stored["runs"], arguments.out / "regularised.png")


def show(runs: list[dict[str, Any]]) -> None:
    """Mean and standard deviation over the seeds, a line for each strength."""
    table = pd.DataFrame(runs).drop(columns="seed").groupby("weight").agg(["mean", "std"])
    print(table.T.unstack().to_string(float_format="{:.3g}".format))


def plot(runs: list[dict[str, Any]], file: Path) -> None:
    """GC, geometric collapse and CDNV against the weight: each seed, and the geometric mean;
    logarithmic but at 0.
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
        f"VGG-13 (width 8, no batch norm), CIFAR-10 subset, each run trained to cross-entropy "
        f"{TARGET:g}; "
        f"circles: seeds, line: their geometric mean",
        fontsize="medium",
    )
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
