"""Scores of transferability at N = 10,000, d = 512, C = 100, beside one product of that size.

``PEERS=FOLDER make bench ONLY=scores`` also runs transformer-ranker's estimators on the same
features, from a folder that ``pip install --no-deps --target FOLDER transformer-ranker`` made.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
from harness import Row, Work
from torch import Tensor

import geocollapse as geo

_PRODUCT = "one 10,000 x 512 x 512 float64 product, 1 thread"
_SECONDS_OF_A_PRODUCT = 0.12  # on the machine that the budgets in seconds are for
# work, and what it may take in seconds there
_BUDGETS: dict[str, tuple[str, float, Callable[[Tensor, Tensor], object]]] = {
    "logme": ("LogME", 0.3, geo.logme),
    "h-score": ("H-score, shrinkage", 0.3, geo.h_score),
    "h-score-plain": ("H-score", 0.3, lambda x, y: geo.h_score(x, y, shrinkage=False)),
    "vci": ("VCI", 1.0, geo.vci),
    "transrate": ("TransRate", 1.0, geo.transrate),
    "parc": ("PARC, all 50 million pairs", 8.0, geo.parc),
    "parc-sampled": ("PARC of 20 groups of 500, with interval", 0.5, geo.parc_sampled),
    "ncti": ("NCTI", 1.0, geo.ncti),
    "knn": ("leave-one-out kNN, k = 5", 1.2, geo.loo_knn_accuracy),
    "nleep": ("NLEEP, 500 components, 64 directions, 20 steps", 20.0, geo.nleep),
    "cdnv": ("CDNV", 1.0, geo.cdnv),
    "directional-cdnv": ("directional CDNV", 1.0, geo.directional_cdnv),
    "rankme": ("RankMe", 1.0, lambda x, _: geo.rankme(x)),
    "alpha-req": ("alpha-ReQ", 1.0, lambda x, _: geo.alpha_req(x)),
    "leep": (
        "LEEP, 512 source classes",
        1.0,
        lambda x, y: geo.leep(x.softmax(dim=1), y),
    ),
}
# estimator, its module in the package, and ours
_PEERS: dict[str, tuple[str, str, Callable[[Tensor, Tensor], float]]] = {
    "logme": ("LogME", "logme", geo.logme),
    "h-score": ("HScore", "hscore", geo.h_score),
    "knn": (
        "NearestNeighbors",
        "nearestneighbors",
        lambda x, y: geo.loo_knn_accuracy(x, y, k=3),
    ),
}
_AGREES = {"logme": 1e-3, "h-score": 1e-8, "knn": 0.1}  # three different votes: another rule


@lru_cache(maxsize=1)
def _target(n: int = 10_000, p: int = 512, n_classes: int = 100) -> tuple[Tensor, Tensor]:
    """Gaussian classes of unit variance around means of length 0.3 sqrt(p)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, n_classes, (n,), generator=generator)
    means = 0.3 * torch.randn(n_classes, p, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, p, generator=generator, dtype=torch.float64)
    return means[labels] + noise, labels


def _against_a_product(score: Callable[[Tensor, Tensor], object]) -> tuple[Work, Work]:
    x, y = _target()
    square = x[:512].clone()
    return lambda: score(x, y), lambda: x @ square


def _against_transformer_ranker(name: str) -> tuple[Work, Work]:
    estimator, module, ours = _PEERS[name]
    x, y = _target()
    peer = getattr(_estimators(module), estimator)()
    return lambda: ours(x, y), lambda: peer.fit(embeddings=x, labels=y)


def _estimators(module: str) -> ModuleType:
    """One estimator's module, without the package around it, which imports a dozen others."""
    folder = Path(os.environ.get("PEERS", "")) / "transformer_ranker" / "estimators"
    if not (folder / "base.py").exists():
        raise FileNotFoundError(
            "transformer-ranker: pip install --no-deps --target FOLDER transformer-ranker, and "
            "PEERS=FOLDER"
        )
    package = "transformer_ranker_estimators"
    if package not in sys.modules:
        parent = ModuleType(package)
        parent.__path__ = [str(folder)]
        sys.modules[package] = parent
    return importlib.import_module(f"{package}.{module}")


def _same(name: str) -> Callable[[float, float], None]:
    def check(ours: float, theirs: float) -> None:
        if not math.isclose(ours, theirs, rel_tol=_AGREES[name]):
            raise ValueError(f"expected the same {name}, got {ours} and {theirs}")

    return check


ROWS = (
    *(
        Row(
            name=f"scores-{name}",
            work=f"{work}, 10,000 x 512, C = 100",
            against=_PRODUCT,
            reach=round(seconds / _SECONDS_OF_A_PRODUCT, 1),
            prepare=lambda score=score: _against_a_product(score),
            repeats=3 if seconds > 1.0 else 5,
            single=True,
        )
        for name, (work, seconds, score) in _BUDGETS.items()
    ),
    *(
        Row(
            name=f"scores-{name}-transformer-ranker",
            work=f"{_BUDGETS[name][0]}, 10,000 x 512, C = 100",
            against=f"transformer-ranker's {estimator}, 1 thread",
            reach=1.0,
            prepare=lambda name=name: _against_transformer_ranker(name),
            repeats=3,
            check=_same(name),
            single=True,
        )
        for name, (estimator, _, _) in _PEERS.items()
    ),
)
