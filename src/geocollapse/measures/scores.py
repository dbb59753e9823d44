"""Scores of transferability: what features are worth on a target, before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from geocollapse.measures.collapse import COLLAPSE
from geocollapse.measures.complexity import COMPLEXITY
from geocollapse.measures.label_free import LABEL_FREE
from geocollapse.measures.measure import Invariance, Measure

_KNOWN = {measure.name: measure for measure in (*COMPLEXITY, *COLLAPSE, *LABEL_FREE)}
_SCALE_AND_ROTATION: tuple[Invariance, ...] = (
    "rotation",
    "feature scale",
    "input scale",
    "input size",
)

_WITH_LABELS = (
    replace(_KNOWN["cdnv"], source="Galanti et al. 2022"),
    replace(
        _KNOWN["directional_cdnv"],
        label="directional CDNV",
        under="",
        source="Luthra et al. 2026",
    ),
    Measure(
        name="predicted_accuracy",
        label="accuracy predicted from the geometry",
        title="predicted accuracy",
        short="predicted accuracy",
        unit="share",
        better="higher",
        read_as="few-shot accuracy of the nearest mean, from the moments of the classes",
        caution="Of these ways and shots; up to 5 points off below 5 shots or 25 dimensions.",
        source="Sorscher et al. 2022",
    ),
    Measure(
        name="logme",
        label="LogME",
        short="LogME",
        unit="nat / example",
        better="higher",
        invariant_to=_SCALE_AND_ROTATION,
        read_as="log evidence of a linear model of the labels",
        caution="Depends on the number and balance of the classes; with n <= p noise is near it.",
        source="You et al. 2021",
    ),
    Measure(
        name="h_score",
        label="H-score, shrinkage",
        short="H-score",
        better="higher",
        read_as="variance of class means in units of the total, about 0 to C - 1",
        caution="Models of different width or spectrum are shrunk by different amounts.",
        source="Ibrahim et al. 2021",
    ),
    Measure(
        name="h_score_plain",
        label="H-score, plain",
        short="plain H-score",
        better="higher",
        read_as="variance of class means in units of the total, 0 to C - 1",
        caution="Grows with p/n; undefined at rank n - 1, where it is C - 1 whatever the labels.",
        source="Bao et al. 2019",
    ),
    Measure(
        name="vci",
        label="variability collapse index",
        short="VCI",
        better="lower",
        read_as="share of variance outside the class means, 0 to 1",
        caution="Says what the plain H-score says on balanced classes; falls with p/n.",
        source="Xu and Liu 2023",
    ),
    Measure(
        name="transrate",
        label="TransRate",
        short="TransRate",
        unit="nat",
        better="higher",
        read_as="code that the classes save, features of mean squared length 1",
        caution="Grows with the directions in use and with p/n, for any labels.",
        source="Huang et al. 2022",
    ),
    Measure(
        name="parc",
        label="PARC",
        short="PARC",
        better="higher",
        invariant_to=("feature scale", "input scale", "input size"),
        read_as="rank correlation of feature and label distances",
        caution="Its largest value is set by the classes: 0.17 for 100; depends on the axes.",
        source="Bolya et al. 2021",
    ),
    Measure(
        name="nleep",
        label="NLEEP",
        short="NLEEP",
        unit="nat / example",
        better="higher",
        read_as="log likelihood of the labels through a Gaussian mixture",
        caution="Many components fit any labels, few cannot; moves between seeds of the mixture.",
        source="Li et al. 2021",
    ),
    Measure(
        name="ncti",
        label="NCTI",
        short="NCTI",
        better="higher",
        read_as="nearness to neural collapse, of one model",
        caution="Not the published total, which exists only for several models; in-sample.",
        source="Wang et al. 2023",
    ),
    Measure(
        name="loo_knn_accuracy",
        label="leave-one-out kNN accuracy",
        short="kNN",
        unit="share",
        better="higher",
        read_as="of 5 nearest neighbours",
        caution="Repeated examples are neighbours of the right class.",
        source="Cover and Hart 1967",
    ),
)
_WITH_A_HEAD = (
    Measure(
        name="leep",
        label="LEEP",
        short="LEEP",
        unit="nat / example",
        better="higher",
        read_as="log likelihood of the labels through the source classes",
        caution="Heads with more classes fit more labels; says nothing about a new head.",
        needs="head",
        source="Nguyen et al. 2020",
    ),
)
_WITHOUT_A_TARGET = (
    replace(
        _KNOWN["per_pixel.gc_per_variance"],
        needs="nothing",
        source="Dherin et al. 2022",
    ),
    replace(
        _KNOWN["per_pixel.geometric_collapse"],
        label="geometric collapse per raw pixel",
        under="",
        needs="nothing",
        source="Munn et al. 2024",
    ),
    replace(
        _KNOWN["cdnv"],
        name="source.cdnv",
        label="source neural collapse (CDNV)",
        title="source neural collapse",
        short="source NC",
        symbol="source CDNV",
        caution="Can have the opposite sign to target NC: show both.",
        needs="nothing",
        source="Galanti et al. 2022",
    ),
    Measure(
        name="learning_path_flatness",
        label="learning-path flatness",
        short="flatness",
        unit="(nat / parameter unit)²",
        better="lower",
        read_as="squared norm of the gradient of the training loss",
        caution="Goes to 0 with the training loss, whatever the geometric complexity is.",
        needs="nothing",
        source="Dherin et al. 2022",
    ),
    replace(_KNOWN["label_free.rankme"], needs="nothing", source="Garrido et al. 2023"),
    replace(_KNOWN["label_free.alpha_req"], needs="nothing", source="Agrawal et al. 2022"),
)

SCORES: Mapping[str, Measure] = MappingProxyType(
    {score.name: score for score in (*_WITH_LABELS, *_WITH_A_HEAD, *_WITHOUT_A_TARGET)}
)
"""Every score once, by name: direction, what it needs of the target, when it misleads."""

FROM_TRAINING = ("source.cdnv", "learning_path_flatness")
"""The scores that only the record of a model's training has."""
