"""Rankings as plain data with numbers as real ones have them, and no model behind."""

import itertools

import numpy as np

from geocollapse.measures import MEASURES
from geocollapse.measures.measure import Measure

NAMES = (
    "resnet56",
    "efficientnet_lite1",
    "resnet44",
    "mobilenetv3_small_100",
    "resnet20",
)


def score(name, label, better, *, unit="no unit"):
    return Measure(
        name=name, label=label, short=label, unit=unit, better=better, read_as="", caution=""
    )


SCORES = {
    measure.name: measure
    for measure in (
        MEASURES["cdnv"],
        MEASURES["directional_cdnv"],
        score("logme", "LogME", "higher", unit="nat / example"),
        score("h_score", "H-score", "higher"),
        score("vci", "VCI", "lower"),
        score("transrate", "TransRate", "higher", unit="nat"),
        score("parc", "PARC", "higher"),
        score("nleep", "NLEEP", "higher", unit="nat / example"),
        score("ncti", "NCTI", "higher"),
        score("loo_knn_accuracy", "kNN", "higher", unit="share"),
        MEASURES["per_pixel.gc_per_variance"],
        MEASURES["label_free.rankme"],
    )
}
# value of the best model, change a point of accuracy, error
_SIZES = {
    "cdnv": (0.31, -0.012, 0.02),
    "directional_cdnv": (0.11, -0.004, 0.01),
    "logme": (-0.42, 0.01, 0.012),
    "h_score": (12.1, 0.2, 0.3),
    "vci": (0.81, -0.005, 0.02),
    "transrate": (0.9, 0.02, 0.15),
    "parc": (0.16, 0.003, 0.006),
    "nleep": (-0.71, 0.02, 0.03),
    "ncti": (-3.1, 0.05, 0.4),
    "loo_knn_accuracy": (0.52, 0.011, 0.015),
    "per_pixel.gc_per_variance": (0.0031, -0.0004, 0.0004),
    "label_free.rankme": (41.0, -0.4, 2.0),
}


def interval(value, stderr):
    return {
        "value": value,
        "stderr": stderr,
        "ci95": [value - 1.96 * stderr, value + 1.96 * stderr],
    }


def no_interval():
    return {"value": None, "stderr": None, "ci95": [None, None]}


def synthetic_ranking(labels=NAMES, *, ranked_by="accuracy", scores="all", failed=(), seed=0):
    """A ranking of the labels, best first, with a third of the pairs tied.

    `scores` is `all`, `none` for scores that are undefined on this sample, or `` for no score.
    """
    generator = np.random.default_rng(seed)
    accuracies = 0.63 - np.cumsum([0.0, *generator.choice([0.004, 0.03], len(labels))])
    is_measured = ranked_by == "accuracy"
    pairs = [
        pair(labels[i], labels[j], float(accuracies[i] - accuracies[j]))
        for i, j in itertools.combinations(range(len(labels)), 2)
    ]
    names = list(SCORES) if scores else []
    models = [
        model(label, float(accuracies[i]), pairs, names, generator, is_measured)
        for i, label in enumerate(labels)
    ]
    if scores == "none":
        for row in models:
            for found in row["scores"].values():
                reason = "5 examples of 5 classes have rank 4: H-score is C - 1 for any labels"
                found.update(no_interval(), null=None, valid=False, reason=reason)
    return {
        "schema_version": 1,
        "ranked_by": ranked_by,
        "advice": advice(labels, pairs),
        "models": models,
        "failed": [{"label": label, "error": error} for label, error in failed],
        "pairs": pairs,
        "agreement": agreement(names, len(labels), scores, generator) if is_measured else {},
        "data": "cifar-fs",
        "split": "test",
        "classes": [f"class {i}" for i in range(20)],
        "n_samples": 1000,
        "n_way": 5,
        "k_shot": 5,
        "n_query": 15 if is_measured else 0,
        "n_episodes": 600,
        "classifier": "nearest_mean",
        "warnings": [],
        "provenance": {
            "geocollapse": "0.4.0",
            "revision": "508f9b3a1c2d",
            "torch": "2.6.0",
            "python": "3.12.3",
            "machine": "Linux x86_64",
            "device": "cpu",
            "threads": 1,
            "n_processes": 1,
            "seed": 0,
            "command": "geocollapse rank resnet56 resnet20 --data cifar-fs:test",
        },
    }


def model(label, accuracy, pairs, names, generator, is_measured):
    of_label = sum(map(ord, label))
    size = (32, 160, 224)[of_label % 3]
    over_episodes = interval(accuracy, 0.004) | {"classes_ci95": [accuracy - 0.03, accuracy + 0.03]}
    tied = [(p["first"], p["second"]) for p in pairs if p["tied"]]
    return {
        "label": label,
        "model": f"timm:{label}",
        "weights": f"file weights/{label}.safetensors",
        "layer": "fc:in",
        "n_features": 64 + 16 * (of_label % 5),
        "n_parameters": 270_000 + 9_100 * of_label,
        "seconds_per_example": 0.0004 + 0.00001 * (of_label % 97),
        "preprocessing": {
            "size": [size, size],
            "mean": [0.485, 0.456, 0.406] if size > 32 else [0.5, 0.5, 0.5],
            "interpolation": "bilinear",
            "batch norm": "evaluation",
        },
        "accuracy": interval(accuracy, 0.011) if is_measured else None,
        "accuracy_over_episodes": over_episodes if is_measured else None,
        "learning_curve": curve(accuracy) if is_measured else {},
        "predicted_accuracy": interval(accuracy + float(generator.normal(0, 0.01)), 0.012),
        "geometric_complexity": interval(2.1 + float(generator.exponential()), 0.2),
        "scores": {name: score_of(name, accuracy, generator) for name in names},
        "tied_with": [b if a == label else a for a, b in tied if label in (a, b)],
        "from_cache": of_label % 2 == 0,
        "warnings": ["few effective dimensions: the prediction may be off"] * (of_label % 2),
    }


def curve(accuracy):
    found = {}
    for k in (1, 2, 5, 10, 20):
        found[str(k)] = interval(accuracy + 0.09 * (np.log(k) - np.log(5)) / np.log(5), 0.006)
        found[str(k)]["classes_ci95"] = [None, None]
    return found


def score_of(name, accuracy, generator):
    best, slope, stderr = _SIZES[name]
    value = best + 100 * (accuracy - 0.63) * slope + float(generator.normal(0, 1.5 * stderr))
    null = {"mean": 0.2 * best, "sd": stderr, "n_shuffles": 10}
    return interval(value, stderr) | {"null": null, "valid": True, "reason": ""}


def pair(first, second, difference):
    p = 0.6 if difference < 0.01 else 0.0004
    return {
        "first": first,
        "second": second,
        "difference": interval(difference, 0.008),
        "p": p / 2,
        "p_holm": p,
        "tied": p > 0.05,
    }


def agreement(names, n_models, scores, generator):
    if scores == "none" or n_models < 2:
        return {name: {"tau": None, "ci95": [None, None], "n_models": 0} for name in names}
    found = {}
    for name in names:
        tau = round(float(generator.uniform(-0.4, 1.0)), 1)
        ends = [max(-1.0, tau - 0.4), min(1.0, tau + 0.2)]
        found[name] = {"tau": tau, "ci95": ends, "n_models": n_models}
    return found


def advice(labels, pairs):
    tied = [p["second"] for p in pairs if p["tied"] and p["first"] == labels[0]]
    if not tied:
        return f"{labels[0]} is best, and told apart from all others."
    names = ", ".join([labels[0], *tied])
    return f"{names} cannot be told apart with 50 examples a class; about 340 would do."
