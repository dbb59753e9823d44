"""``python benchmarks/ood.py``: detectors of other data on the features of public CIFAR-10 ResNets.

In: CIFAR-10 test. Out: CIFAR-100 test (near), Fashion-MNIST and MNIST in colour at 32 x 32 (far),
Gaussian and uniform noise. Each detector gets the same features of CIFAR-10 training images, a
random half of them for each seed: Morse networks with and without labels, those of pytorch-ood, and
scikit-learn's one-class SVM. The settings of Morse with labels (linear map, lambda 10) are the
defaults of `geocollapse ood`, which were chosen on CIFAR-10 test against CIFAR-100: its first
column is not blind. ViM has half of the dimensions, the SVM nu 0.05 on standardised features; the
others have their libraries' defaults. Prints a table and stores every value. Cells that are stored
are run again only with --again. Needs GEOCOLLAPSE_DATA, and the checkpoints of the networks:

    python benchmarks/ood.py --checkpoints FOLDER [--again] [--models resnet20] [--seeds 3]

Verdicts on the claims of `papers/morse` follow the tables. `REWRITE_PAGES=1 pytest
tests/test_morse_page.py` puts both on docs/morse.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import RESULTS, machine
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from torch import Tensor

from geocollapse import models, morse
from geocollapse.data import LabelledData
from geocollapse.data.labelled import About
from geocollapse.measurement.cached import CollectSettings, cached_features
from geocollapse.models import LoadedModel
from geocollapse.papers.registry import benchmark_papers
from geocollapse.store.cache import FeatureCache

ROOT = Path(__file__).parents[1]
CHECKPOINTS = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet32": "resnet32-d509ac18.th",
    "resnet44": "resnet44-014dd654.th",
    "resnet56": "resnet56-4bfd9763.th",
}
OUT = ("cifar100", "fashion-mnist", "mnist", "gaussian", "uniform")
VALUES = ("auroc", "fpr95", "aupr_in", "aupr_out")
SVM_SCALE = "scale"  # scikit-learn's gamma, from the variance of the features
Scores = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Fitted:
    """Features to fit on, their labels, and the network's classifier."""

    x: Tensor
    y: Tensor
    weight: Tensor
    bias: Tensor
    seed: int

    def logits(self, x: Tensor) -> Tensor:
        """Of features (n, p), (n, C)."""
        return x @ self.weight.T + self.bias


def _of_logits(name: str) -> Callable[[Fitted], Scores]:
    def fit(given: Fitted) -> Scores:
        import pytorch_ood.detector as peers

        detector = getattr(peers, name)(None)
        return lambda x: detector.predict_logits(given.logits(x))

    return fit


def _mahalanobis(given: Fitted) -> Scores:
    import pytorch_ood.detector as peers

    return peers.Mahalanobis(None).fit_features(given.x, given.y).predict_features


def _knn(given: Fitted) -> Scores:
    import pytorch_ood.detector as peers

    detector = peers.KNN(None)
    detector.knn.set_params(n_jobs=1)
    return detector.fit_features(given.x, given.y).predict_features


def _vim(given: Fitted) -> Scores:
    import pytorch_ood.detector as peers

    width = given.x.shape[1] // 2
    detector = peers.ViM(None, width, given.weight, given.bias)
    return detector.fit_features(given.x, given.y).predict_features


def _one_class_svm(given: Fitted) -> Scores:
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import OneClassSVM

    scaler = StandardScaler().fit(given.x.numpy())
    detector = OneClassSVM(gamma=SVM_SCALE, nu=0.05).fit(scaler.transform(given.x.numpy()))
    return lambda x: torch.from_numpy(-detector.score_samples(scaler.transform(x.numpy())))


def _morse(given: Fitted) -> Scores:
    settings = morse.DetectorSettings(seed=given.seed)
    network = morse.fit_detector(given.x, given.y, settings)
    return lambda x: morse.outlier_scores(network, x)


def _morse_alone(given: Fitted) -> Scores:
    settings = morse.DetectorSettings(seed=given.seed, hidden=(64, 64))
    network = morse.fit_detector(given.x, None, settings)
    return lambda x: morse.outlier_scores(network, x)


DETECTORS: Mapping[str, Callable[[Fitted], Scores]] = {
    "Morse, with labels": _morse,
    "Morse, without labels": _morse_alone,
    "MSP": _of_logits("MaxSoftmax"),
    "energy": _of_logits("EnergyBased"),
    "MaxLogit": _of_logits("MaxLogit"),
    "Mahalanobis": _mahalanobis,
    "kNN": _knn,
    "ViM": _vim,
    "one-class SVM": _one_class_svm,
}


NOT_FITTED = ("MSP", "energy", "MaxLogit")  # the same at every seed


class Features:
    """Features of all data sets by one network, kept on disk."""

    def __init__(self, name: str, checkpoints: Path, n: int) -> None:
        weights = checkpoints / CHECKPOINTS[name]
        factory = f"{ROOT}/examples/cifar_resnet.py:{name}"
        self.model = models.load(factory, weights=weights)
        self.n = n
        self.cache = FeatureCache()

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Features (n, p) and labels (n,) of a data set."""
        kept = cached_features(self.model, self._data(name), CollectSettings(), cache=self.cache)
        return kept.features.float(), kept.labels

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Weight (C, p) and bias (C,) of the network's last layer."""
        linear = self.model.model.linear
        return linear.weight.detach().clone(), linear.bias.detach().clone()

    def _data(self, name: str) -> LabelledData:
        if name in ("gaussian", "uniform"):
            return _noise(name, self.model, self.n)
        size = None if name.startswith("cifar") else 32
        split = "train" if name == "cifar10:train" else "test"
        n = 2 * self.n if split == "train" else self.n
        return models.prepare(
            self.model, name.partition(":")[0], split=split, image_size=size, subset=n
        )


def _noise(name: str, model: LoadedModel, n: int) -> LabelledData:
    """Images of N(1/2, 1) cut to [0, 1], or of uniform pixels, normalised as the network asks."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, 3, 32, 32)
    if name == "uniform":
        pixels = torch.rand(shape, generator=generator)
    else:
        pixels = (0.5 + torch.randn(shape, generator=generator)).clamp(0.0, 1.0)
    mean, std = model.normalisation.mean, model.normalisation.std
    assert mean is not None
    assert std is not None
    centred = pixels - torch.tensor(mean).view(3, 1, 1)
    about = About(name, "test", ("noise", "other"), mean, std)
    labels = torch.arange(n) % 2
    return LabelledData(centred / torch.tensor(std).view(3, 1, 1), labels, about)


def missing_cells(
    results: Mapping[str, dict[str, object]], names: list[str], seeds: int
) -> Iterator[tuple[str, str, int]]:
    """Network, detector and seed of what is not among the results."""
    for name in names:
        for detector in DETECTORS:
            for seed in range(1 if detector in NOT_FITTED else seeds):
                if f"{name}/{detector}/{seed}" not in results:
                    yield name, detector, seed


def measured(features: Features, detector: str, seed: int) -> dict[str, object]:
    """One detector at one seed on all data sets."""
    x, y = features.of("cifar10:train")
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: len(x) // 2]
    given = Fitted(x[rows], y[rows], *features.classifier(), seed)
    start = time.perf_counter()
    scores_of = DETECTORS[detector](given)
    fitted = time.perf_counter() - start
    sets = {name: features.of(name)[0] for name in ("cifar10", *OUT)}
    start = time.perf_counter()
    scores = {name: scores_of(one).double() for name, one in sets.items()}
    seconds = time.perf_counter() - start
    found: dict[str, object] = {
        "fit_seconds": round(fitted, 4),
        "microseconds_per_image": round(1e6 * seconds / sum(map(len, sets.values())), 3),
    }
    for name in OUT:
        one = morse.detection(scores["cifar10"], scores[name], n_resamples=50)
        found[name] = {value: round(getattr(one, value).value, 5) for value in VALUES}
        found[name] |= {"auroc_stderr": round(one.auroc.stderr, 5)}
    return found


def show(results: dict[str, dict[str, object]], name: str, value: str) -> None:
    """A table of one network: mean and 95 % interval over seeds of one value."""
    table = Table("detector", *OUT, "fit s", "us an image", title=f"{name}: {value}")
    for detector in DETECTORS:
        cells = [cell for key, cell in results.items() if key.startswith(f"{name}/{detector}/")]
        if cells:
            columns = [_interval([cell[out][value] for cell in cells]) for out in OUT]
            times = [
                f"{np.median([cell[key] for cell in cells]):.3g}"
                for key in ("fit_seconds", "microseconds_per_image")
            ]
            table.add_row(detector, *columns, *times)
    Console(width=160).print(table)


def show_verdicts(path: Path) -> None:
    """The verdicts on the claims on Morse networks, from the stored cells."""
    table = Table("claim", "judged", "verdict", "networks", "effect", "95 % interval")
    for verdict in benchmark_papers()["morse"].judge(path):
        low, high = verdict.interval
        row = (verdict.claim, verdict.statement, verdict.verdict, str(verdict.n_runs))
        table.add_row(*row, f"{verdict.effect:.3f}", f"{low:.3f} to {high:.3f}")
    Console(width=160).print(table)


def _interval(values: list[float]) -> str:
    """Mean with the half-width of Student's interval over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    quantile = student.ppf(0.975, len(values) - 1)
    half = quantile * np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{mean:.3f} ± {half:.3f}"


def main() -> None:
    """Run what is missing, store it cell by cell, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(CHECKPOINTS), choices=CHECKPOINTS)
    parser.add_argument("--n", type=int, default=10_000, help="images of each set, and fitted on")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--again", action="store_true", help="run what is stored too")
    parser.add_argument("--out", type=Path, default=RESULTS / "ood.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if stored and stored["n"] != arguments.n:
        sys.exit(f"--n: expected {stored['n']}, as {arguments.out} has, got {arguments.n}")
    results = stored.get("cells", {})
    features: dict[str, Features] = {}
    kept = {} if arguments.again else results
    for name, detector, seed in [*missing_cells(kept, arguments.models, arguments.seeds)]:
        if name not in features:
            features = {name: Features(name, arguments.checkpoints, arguments.n)}
        print(f"{name} {detector} seed {seed}", file=sys.stderr, flush=True)
        try:
            results[f"{name}/{detector}/{seed}"] = measured(features[name], detector, seed)
        except ImportError as error:
            print(f"{detector}: skipped, {error}", file=sys.stderr, flush=True)
            continue
        content = {"n": arguments.n, "machine": machine(), "cells": results}
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    for name in arguments.models:
        for value in ("auroc", "fpr95"):
            show(results, name, value)
    show_verdicts(arguments.out)


if __name__ == "__main__":
    main()
