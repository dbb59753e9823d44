"""A small sweep folder in the on-disk format of the interface, with effects that are known because
they are put in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from geocollapse.experiments.recipe import Recipe, RunConfig, run_id

BASE: dict[str, Any] = {
    "name": "synthetic",
    "title": "A sweep with known effects",
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "training": {"learning_rate": 0.05, "batch_size": 32, "max_steps": 400},
    "measuring": {"points": 6},
}
VALUES = {
    "learning_rate": ("training.learning_rate", [0.01, 0.02, 0.05, 0.1, 0.2]),
    "batch_size": ("training.batch_size", [128, 64, 32, 16, 8]),
    "weight_decay": ("training.weight_decay", [0.0, 1e-4, 3e-4, 1e-3, 3e-3]),
    "gc_penalty": ("training.gc_penalty.weight", [0.0, 1e-7, 1e-6, 1e-5, 1e-4]),
}
SIGNS = {
    "gc_gcol": 1,
    "gc_nc": 1,
    "gc_target_nc": 1,
    "gc_accuracy": -1,
    "training.learning_rate": -1,
    "training.batch_size": 1,
    "training.weight_decay": -1,
    "training.gc_penalty.weight": -1,
}
EFFECTS = {"perfect": -0.3, "reversed": 0.3, "opposed": -0.3}  # of one more setting on log GC
STEPS = [0, 20, 50, 100, 200, 400]


@dataclass(frozen=True)
class Levels:
    """What moves a whole run, in logarithms: its GC, its squared distances, and what the target
    classes see.
    """

    gc: float
    distance: float
    target: float

    @classmethod
    def of(cls, sweep: str, effect: str, position: int, seed: int) -> Levels:
        rng = np.random.default_rng([*sweep.encode(), position, seed])
        if effect == "noise":
            return cls(*rng.normal(0.0, 0.5, 3))
        gc = EFFECTS[effect] * position + float(rng.normal(0.0, 0.02))
        return cls(gc, 2.0 * gc, -gc) if effect == "opposed" else cls(gc, -0.2 * gc, gc)


def write_sweep(
    folder: Path,
    *,
    sweeps: Sequence[str] = ("learning_rate",),
    effect: str = "perfect",
    n_settings: int = 5,
    n_seeds: int = 2,
    target: bool = True,
    sampling: int = 0,
    failed: Sequence[int] = (),
    unconverged: Sequence[int] = (),
    name: str = "synthetic",
) -> Path:
    """Write a sweep folder; ``failed`` and ``unconverged`` are positions of runs in the order of
    writing.

    The settings come in the order in which the paper expects GC to fall. In a `perfect` sweep GC,
    GCol and NC fall strictly with it, target NC falls and accuracy rises. In a `reversed` one all
    turn round with GC; in an `opposed` one GC falls and all the others turn round; `noise` has no
    effect, and every quantity its own noise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runs: list[dict[str, Any]] = []
    for sweep in sweeps:
        key, values = VALUES[sweep]
        for position, value in enumerate(values[:n_settings]):
            for seed in range(n_seeds):
                number = len(runs)
                levels = Levels.of(sweep, effect, position, seed)
                config = run_config(number, seed, {key: value})
                run = {
                    "run_id": run_id(config),
                    "seed": seed,
                    "sweeps": {sweep: {key: value}},
                    "overrides": {key: value},
                }
                runs.append(run)
                state = (
                    "failed"
                    if number in failed
                    else "unconverged"
                    if number in unconverged
                    else "done"
                )
                write_run(
                    folder / "runs" / run["run_id"],
                    config,
                    levels,
                    state=state,
                    target=target,
                    sampling=sampling,
                )
    (folder / "sweep.yaml").write_text(
        yaml.safe_dump(recipe(name, sweeps, n_settings, n_seeds) | {"runs": runs})
    )
    return folder


def run_config(number: int, seed: int, values: Mapping[str, Any]) -> RunConfig:
    """The configuration of a run; each has another subset, so that no two have the same name."""
    return Recipe.of(BASE).run_config({"data.subset": 500 + number, **values}, seed=seed)


def run_folders(folder: Path) -> list[Path]:
    """The folders of the runs, in the order of the plan."""
    runs = yaml.safe_load((folder / "sweep.yaml").read_text())["runs"]
    return [folder / "runs" / run["run_id"] for run in runs]


def recipe(name: str, sweeps: Sequence[str], n_settings: int, n_seeds: int) -> dict[str, Any]:
    return {
        "name": name,
        "title": "A sweep with known effects",
        "paper": "none: synthetic numbers",
        "data": {
            "name": "digits",
            "source_classes": [0, 1, 2, 3, 4],
            "target_classes": [5, 6, 7, 8, 9],
        },
        "training": {"learning_rate": 0.05, "batch_size": 32, "weight_decay": 0.0},
        "transfer": {"n_way": 5, "k_shots": [1, 5], "n_query": 15, "n_episodes": 600},
        "seeds": n_seeds,
        "claims": {
            "expected_signs": SIGNS,
            "poincare_factor": 3.0,
            "coverage": 0.93,
            "relative_error": 0.05,
        },
        "sweeps": {sweep: {VALUES[sweep][0]: VALUES[sweep][1][:n_settings]} for sweep in sweeps},
    }


def write_run(
    folder: Path,
    config: RunConfig,
    levels: Levels,
    *,
    state: str,
    target: bool = True,
    sampling: int = 0,
) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    steps = STEPS[:3] if state == "failed" else STEPS
    lines = [record(step, levels, target=target) for step in steps]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = state != "failed"
    result = {
        "run_id": run_id(config),
        "status": "done" if done else "failed",
        "converged": state == "done",
        "stop_step": steps[-1] // 2 if state == "done" else None,
        "steps": steps[-1],
        "error": None if done else "training loss: expected a finite number, got nan at step 60",
        "failed_step": None if done else 60,
        "seconds": 1.5,
        "final": lines[-1] | {"batch_norm_recalibrated": True} if done else None,
        "sampling": sampling_study(levels.gc, sampling) if sampling else {},
        "provenance": {
            "geocollapse": "0.1.0",
            "torch": "2.6.0",
            "device": "cpu",
            "threads": 1,
            "python": "3.11",
        },
    }
    (folder / "result.json").write_text(json.dumps(result))


def record(step: int, levels: Levels, *, target: bool = True) -> dict[str, Any]:
    """One line of the history: loss falls, GC rises, collapse sets in; the levels move the whole
    run.
    """
    progress = math.log1p(step) / math.log1p(STEPS[-1])
    gc = math.exp(levels.gc + 2.0 + progress)
    distance = math.exp(levels.distance) * (4.0 + 8.0 * progress)
    line: dict[str, Any] = {
        "step": step,
        "epoch": step / 20,
        "examples_seen": 32 * step,
        "train_loss": 2.3 * math.exp(-6.0 * progress),
        "train_accuracy": 0.1 + 0.9 * progress,
        "learning_path_flatness": math.exp(levels.gc - 4 * progress),
        "seconds": 0.01 * step,
        "seconds_measuring": 0.005 * step,
        "batch_norm_recalibrated": False,
        "source": measured(gc, distance=distance, error=0.6 * (1 - progress)),
    }
    if target:
        error = min(0.9, 0.2 * math.exp(0.5 * levels.target))
        line["target"] = measured(math.exp(levels.target), distance=3.0, error=error) | transferred(
            error
        )
    return line


def measured(gc: float, *, distance: float, error: float) -> dict[str, Any]:
    """The keys of `measure --json` that a report reads."""
    gcol = gc / distance
    cdnv = 0.1 * gcol
    bound = 16.0 * cdnv
    return {
        "accuracy": 1.0 - error,
        "n_classes": 5,
        "geometric_complexity": {
            "value": gc,
            "stderr": 0.02 * gc,
            "ci95": [0.96 * gc, 1.04 * gc],
            "n_probes": 1,
        },
        "gc_pixel": 16 * gc,
        "gc_per_variance": gc / 50,
        "geometric_collapse": {
            "value": gcol,
            "stderr": 0.02 * gcol,
            "ci95": [0.96 * gcol, 1.04 * gcol],
        },
        "poincare_ratio": {"weighted_mean": 0.1, "max": 0.12, "per_class": {"0": 0.1, "1": 0.12}},
        "cdnv": cdnv,
        "cdnv_bias_corrected": 1.01 * cdnv,
        "nc1": 0.5 * cdnv,
        "nearest_mean_error": error / 2,
        "nearest_mean_bound": {
            m: {"general": bound, "best": bound, "vacuous": bound >= 1} for m in ("inf", "1", "5")
        },
        "preprocessing": {"mean": [0.5], "std": [0.25]},
        "warnings": [],
    }


def transferred(error: float) -> dict[str, Any]:
    def accuracy(value: float) -> dict[str, Any]:
        return {"value": value, "stderr": 0.004, "ci95": [value - 0.008, value + 0.008]}

    shots = {"1": accuracy(1 - 1.1 * error), "5": accuracy(1 - error)}
    return {
        "accuracy": {"nearest_mean": shots, "linear_probe": shots},
        "n_way": 5,
        "n_query": 15,
        "n_episodes": 600,
    }


def sampling_study(
    level: float, n_estimates: int, *, relative_error: float = 0.02
) -> dict[str, Any]:
    """Repeated estimates with a normal relative error and the interval that it deserves."""
    full = math.exp(level + 3.0)
    errors = np.random.default_rng(int(1e6 * abs(level)) + 1).normal(
        0.0, relative_error, n_estimates
    )
    estimates = [
        {
            "value": full * (1 + e),
            "ci95": [full * (1 + e - 2 * relative_error), full * (1 + e + 2 * relative_error)],
        }
        for e in errors
    ]
    return {"examples": {"n_samples": 64, "n_probes": 1, "full": full, "estimates": estimates}}
