"""Geometry of learned representations: geometric complexity, neural collapse, geometric collapse,
transfer.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geocollapse._version import __version__

if TYPE_CHECKING:
    from geocollapse import dynamics as dynamics
    from geocollapse import optimizers as optimizers
    from geocollapse import regularizers as regularizers
    from geocollapse.bounds import NearestMeanBound as NearestMeanBound
    from geocollapse.bounds import nearest_mean_bound as nearest_mean_bound
    from geocollapse.collapse import NeuralCollapse as NeuralCollapse
    from geocollapse.collapse import cdnv as cdnv
    from geocollapse.collapse import directional_cdnv as directional_cdnv
    from geocollapse.collapse import geometric_collapse as geometric_collapse
    from geocollapse.collapse import neural_collapse as neural_collapse
    from geocollapse.complexity import ComplexityComparison as ComplexityComparison
    from geocollapse.complexity import compare_complexity as compare_complexity
    from geocollapse.complexity import geometric_complexity as geometric_complexity
    from geocollapse.estimate import Estimate as Estimate
    from geocollapse.estimate import GeocollapseWarning as GeocollapseWarning
    from geocollapse.estimate import paired as paired
    from geocollapse.features import split as split
    from geocollapse.integrations.metrics import CollapseMetric as CollapseMetric
    from geocollapse.integrations.scikit_learn import MorseDensity as MorseDensity
    from geocollapse.integrations.scikit_learn import MorseProbabilities as MorseProbabilities
    from geocollapse.jacobian import squared_jacobian_norms as squared_jacobian_norms
    from geocollapse.measurement import Measurement as Measurement
    from geocollapse.measurement import collect_features as collect_features
    from geocollapse.measurement import margin_complexity as margin_complexity
    from geocollapse.measurement import measure as measure
    from geocollapse.measurement import measure_features as measure_features
    from geocollapse.ranking import Comparison as Comparison
    from geocollapse.ranking import Ranking as Ranking
    from geocollapse.ranking import compare as compare
    from geocollapse.ranking import rank as rank
    from geocollapse.ranking import score_all as score_all
    from geocollapse.regularizers.complexity import (
        GeometricComplexityPenalty as GeometricComplexityPenalty,
    )
    from geocollapse.transfer import FewShotAccuracy as FewShotAccuracy
    from geocollapse.transfer import LearningCurve as LearningCurve
    from geocollapse.transfer import alpha_req as alpha_req
    from geocollapse.transfer import effective_rank as effective_rank
    from geocollapse.transfer import feature_norm as feature_norm
    from geocollapse.transfer import few_shot_accuracy as few_shot_accuracy
    from geocollapse.transfer import full_data_accuracy as full_data_accuracy
    from geocollapse.transfer import h_score as h_score
    from geocollapse.transfer import learning_curve as learning_curve
    from geocollapse.transfer import leep as leep
    from geocollapse.transfer import logme as logme
    from geocollapse.transfer import loo_knn_accuracy as loo_knn_accuracy
    from geocollapse.transfer import ncti as ncti
    from geocollapse.transfer import nleep as nleep
    from geocollapse.transfer import paired_difference as paired_difference
    from geocollapse.transfer import parc as parc
    from geocollapse.transfer import parc_sampled as parc_sampled
    from geocollapse.transfer import predicted_error as predicted_error
    from geocollapse.transfer import rankme as rankme
    from geocollapse.transfer import transrate as transrate
    from geocollapse.transfer import vci as vci

_HOME = {
    "CollapseMetric": "integrations.metrics",
    "Comparison": "ranking",
    "ComplexityComparison": "complexity",
    "Estimate": "estimate",
    "FewShotAccuracy": "transfer",
    "GeocollapseWarning": "estimate",
    "GeometricComplexityPenalty": "regularizers",
    "LearningCurve": "transfer",
    "Measurement": "measurement",
    "MorseDensity": "integrations.scikit_learn",
    "MorseProbabilities": "integrations.scikit_learn",
    "NearestMeanBound": "bounds",
    "NeuralCollapse": "collapse",
    "Ranking": "ranking",
    "alpha_req": "transfer",
    "cdnv": "collapse",
    "collect_features": "measurement",
    "compare": "ranking",
    "compare_complexity": "complexity",
    "directional_cdnv": "collapse",
    "effective_rank": "transfer",
    "feature_norm": "transfer",
    "few_shot_accuracy": "transfer",
    "full_data_accuracy": "transfer",
    "geometric_collapse": "collapse",
    "geometric_complexity": "complexity",
    "h_score": "transfer",
    "leep": "transfer",
    "logme": "transfer",
    "loo_knn_accuracy": "transfer",
    "learning_curve": "transfer",
    "margin_complexity": "measurement",
    "measure": "measurement",
    "measure_features": "measurement",
    "ncti": "transfer",
    "nearest_mean_bound": "bounds",
    "neural_collapse": "collapse",
    "paired": "estimate",
    "nleep": "transfer",
    "parc": "transfer",
    "parc_sampled": "transfer",
    "paired_difference": "transfer",
    "predicted_error": "transfer",
    "rank": "ranking",
    "rankme": "transfer",
    "score_all": "ranking",
    "split": "features",
    "squared_jacobian_norms": "jacobian",
    "transrate": "transfer",
    "vci": "transfer",
}

_ROOMS = ("dynamics", "optimizers", "regularizers")  # packages that are used by their own name

__all__ = ["__version__", *sorted([*_HOME, *_ROOMS])]


def __getattr__(name: str) -> Any:
    """The public names, imported on first use (PEP 562)."""
    if name in _ROOMS:
        return import_module(f"geocollapse.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'geocollapse' has no attribute {name!r}")
    value = getattr(import_module(f"geocollapse.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
