"""Geometric complexity, and what is made of it and the class statistics."""

from __future__ import annotations

from geocollapse.measures.measure import Invariance, Measure

_SCALE_FREE: tuple[Invariance, ...] = ("translation", "rotation", "feature scale")

COMPLEXITY = (
    Measure(
        name="geometric_complexity",
        label="geometric complexity",
        short="GC",
        unit="(feature unit / input unit)²",
        better="lower",
        invariant_to=("translation", "rotation"),
        read_as="mean ||J||_F^2 of {n_probed} examples",
        caution="Compares scales if models differ in preprocessing, width or normalisation.",
    ),
    Measure(
        name="gc_pixel",
        label="per raw pixel",
        under="geometric_complexity",
        title="GC per unit of the raw pixel",
        short="GC pixel",
        unit="(feature unit / pixel unit)²",
        better="lower",
        invariant_to=("translation", "rotation", "input scale"),
        read_as="free of the input normalisation",
        caution="Depends on the resolution: rank it only among models of equal input size.",
    ),
    Measure(
        name="gc_per_variance",
        label="per feature variance",
        under="geometric_complexity",
        title="GC / total feature variance",
        short="GC / var",
        unit="1 / input unit²",
        better="lower",
        invariant_to=_SCALE_FREE,
        read_as="free of the feature scale",
        caution="Depends on the input scale: compare only models of equal preprocessing.",
    ),
    Measure(
        name="geometric_collapse",
        label="geometric collapse",
        short="GCol",
        unit="1 / input unit²",
        better="lower",
        invariant_to=_SCALE_FREE,
        read_as="GC over squared distances of means",
        caution="GC is its numerator, so they correlate in part by construction.",
    ),
    Measure(
        name="poincare_ratio.weighted_mean",
        label="Poincare ratio, mean",
        title="mean Poincaré ratio",
        short="mean Poincaré ratio",
        unit="input unit²",
        invariant_to=_SCALE_FREE,
        read_as="CDNV over geometric collapse",
        caution="Equals CDNV / GCol by definition: no evidence for an inequality between them.",
    ),
    Measure(
        name="poincare_ratio.max",
        label="Poincare ratio, largest",
        title="largest Poincaré ratio",
        short="largest Poincaré ratio",
        unit="input unit²",
        invariant_to=_SCALE_FREE,
        read_as="Var / GC of a class",
        caution="With it as c, NC <= c GCol holds for any numbers; no c is known for real data.",
    ),
    Measure(
        name="input_covariance_lambda_max",
        label="input covariance, largest eigenvalue",
        short="input lambda max",
        unit="input unit²",
        invariant_to=_SCALE_FREE,
        read_as="largest of all classes; does not depend on the model",
        caution="Only a lower bound on the Poincare constant: no c to put into NC <= c GCol.",
    ),
)
