"""All measures of neural collapse of labelled features in one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from typing_extensions import TypedDict

from geocollapse.arrays import Array, Labels, as_tensor
from geocollapse.collapse.cdnv import mean_cdnv
from geocollapse.collapse.decisions import Disagreements, NearestMeanErrors, NearestMeans
from geocollapse.collapse.directional import mean_directional_cdnv
from geocollapse.collapse.duality import nc3, self_duality_gram
from geocollapse.collapse.labelled import LabelledFeatures
from geocollapse.collapse.many_classes import (
    about_estimates,
    estimates_of_features,
    estimates_of_pairs,
)
from geocollapse.collapse.projections import Reader, read
from geocollapse.collapse.sampled import PairSample, has_too_many_pairs
from geocollapse.collapse.simplex import (
    estimate_max_angle,
    hyperspherical_uniformity,
    nc2,
    norms_and_angles,
)
from geocollapse.collapse.statistics import ClassStatistics
from geocollapse.collapse.variability import WhitenedSums, trace_ratio
from geocollapse.estimate import Estimate, Json, strict_json


@dataclass(frozen=True)
class NeuralCollapse:
    """All measures of neural collapse of one set of features.

    Smaller is more collapsed for all but ``nc1_rank`` and ``hyperspherical_uniformity``.
    None: not measured (no classifier weight or bias given). NaN: undefined, with the reason in
    ``warnings``.

    Attributes:
        cdnv: NC = Avg_{i != j} V_ij, plug-in.
        cdnv_bias_corrected: the same with unbiased numerators and denominators.
        directional_cdnv: Avg V~_ij, only the variance along the line between two means.
        nc1: tr(Sigma_W Sigma_B^+) / C with equal class weights.
        nc1_rank: the rank of Sigma_B that NC1 used.
        nc1_pooled: the same with each sample of equal weight in Sigma_W; differs from ``nc1`` under
            imbalance.
        nc1_trace_ratio: tr(Sigma_W) / tr(Sigma_B).
        nc2_equinorm: relative standard deviation of the norms of the centred class means.
        nc2_equiangular: standard deviation of their cosines.
        nc2_max_angle: mean distance of their cosines from -1/(C - 1).
        hyperspherical_uniformity: mean log inverse distance of their directions, to read where C >
            p + 1.
        nearest_mean_error: share of the examples whose own class mean is not the nearest.
        nc2_weight_equinorm: ``nc2_equinorm`` of the classifier rows, as they are unless
            ``centre_weight``.
        nc2_weight_equiangular: ``nc2_equiangular`` of them.
        nc2_weight_max_angle: ``nc2_max_angle`` of them.
        nc3: || W/||W||_F - M/||M||_F ||_F.
        nc3_squared: its square, the other convention in use.
        self_duality_gram: distance of W M^T from the simplex Gram matrix, both normalised.
        nc4: share of the examples on which classifier and nearest class mean disagree.
        sampled: the measures above that are estimates, by name, with their intervals: of random
            class pairs or examples where there are more than 8,192 classes. Empty for fewer.
        warnings: why a value is NaN or must be read with care.
    """

    cdnv: float
    cdnv_bias_corrected: float
    directional_cdnv: float
    nc1: float
    nc1_rank: int
    nc1_pooled: float
    nc1_trace_ratio: float
    nc2_equinorm: float
    nc2_equiangular: float
    nc2_max_angle: float
    hyperspherical_uniformity: float
    nearest_mean_error: float
    nc2_weight_equinorm: float | None = None
    nc2_weight_equiangular: float | None = None
    nc2_weight_max_angle: float | None = None
    nc3: float | None = None
    nc3_squared: float | None = None
    self_duality_gram: float | None = None
    nc4: float | None = None
    sampled: Mapping[str, Estimate] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = field(default=(), repr=False)

    def to_dict(self) -> dict[str, Json]:
        """Return the strict JSON form; undefined numbers are None."""
        return strict_json({f.name: getattr(self, f.name) for f in fields(self)})


def neural_collapse(
    features: Array,
    labels: Labels,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    centre_weight: bool = False,
    num_classes: int | None = None,
) -> NeuralCollapse:
    """CDNV, NC1 to NC4 and their companions, from features and, for NC3 and NC4, the classifier.

    Conventions of Papyan et al. with equal class weights; see ``NeuralCollapse`` for each formula.
    Invariant under relabelling, and under translation, rotation and scaling of the features (NC3,
    NC4: with W moved along). Three passes over the features, two for the class statistics and
    one for all else: O(n p C) time, no p x p matrix.

    Above 8,192 classes the averages over class pairs are estimated from 500,000 random ones, and
    ``nearest_mean_error`` and ``nc4`` from random examples, with seed 0: ``sampled`` holds their
    intervals, a warning says so. Norms, ``nc2_equiangular``, NC1 and NC3 remain exact. Time is then
    O(n p^2 + C p^2), memory that of the features and means.

    Source: Papyan, Han, Donoho (2020); Galanti, György, Hutter (2022); definitions 2.

    Args:
        features: (n, p) floating point, the inputs of the classifier.
        labels: (n,) integers, or names of classes.
        weight: classifier W (C, p), rows in ascending order of the labels: gives NC2 of W, NC3.
        bias: b (C,): with W gives NC4. For a head without a bias pass ``torch.zeros(C)``.
        centre_weight: subtract the mean row from W for NC2 of W and NC3, which leaves the softmax
            unchanged.
        num_classes: declares the labels 0..num_classes - 1; None discovers the classes. A declared
            class without examples makes every average over classes NaN, with a warning.

    Raises:
        TypeError: features that are not floating point, labels that are neither integers nor names.
        ValueError: wrong shapes, NaN features, a label out of the declared range, fewer than two
            classes, a bias without weight.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
        >>> y = torch.tensor([0, 0, 1, 1])
        >>> found = neural_collapse(x, y, weight=x[::2], bias=torch.zeros(2))
        >>> found.nc1, found.nc2_max_angle, found.nc3, found.nc4
        (0.0, 0.0, 0.0, 0.0)
    """
    data = LabelledFeatures.of(features, labels, num_classes)
    return measure_collapse(data, weight=weight, bias=bias, centre_weight=centre_weight)


def measure_collapse(
    data: LabelledFeatures,
    *,
    weight: Array | None = None,
    bias: Array | None = None,
    centre_weight: bool = False,
    beside: Sequence[Reader] = (),
) -> NeuralCollapse:
    """Compute ``neural_collapse`` of checked features, which share their class statistics.

    ``beside`` are readers that share the pass over the residuals.
    """
    w, b = _classifier(data, weight, bias)
    no_bias = "nc4: needs the bias, got None; do bias=torch.zeros(C) for a classifier without one"
    about_weight = (no_bias,) if w is not None and b is None else ()
    rows = None
    of_weight: dict[str, float] = {}
    if w is not None:
        rows = w - w.mean(dim=0) if centre_weight else w
        of_weight = _weight_measures(rows, data.centred_means)
        about_weight = (*about_weight, *_about_rows(rows))
    if has_too_many_pairs(len(data.statistics.classes)):
        found = _of_many_classes(data, w, b, rows, of_weight)
        return replace(found, warnings=(*found.warnings, *about_weight))
    streamed, about_classes = streamed_measures(data.statistics)
    kept, about_pairs = _kept_measures(data, w, b, beside)
    return NeuralCollapse(
        **streamed,
        **kept,
        **of_weight,
        sampled={},
        warnings=(*about_classes, *about_pairs, *about_weight),
    )


def _of_many_classes(
    data: LabelledFeatures,
    weight: Tensor | None,
    bias: Tensor | None,
    rows: Tensor | None,
    of_weight: dict[str, float],
) -> NeuralCollapse:
    """All measures for more than 8,192 classes, where averages over pairs are estimates.

    ``rows`` are those of W for NC2, ``of_weight`` what W gives without a look at each pair.
    """
    statistics = data.statistics
    sample = PairSample.of(len(statistics.classes), device=statistics.offsets.device)
    whitened = WhitenedSums(data)
    read(data, [whitened], whitened.basis)
    estimates = {
        **estimates_of_pairs(statistics, sample),
        **estimates_of_features(data, weight, bias, sample),
    }
    if rows is not None:
        name = "nc2_weight_max_angle"
        estimates[name] = estimate_max_angle(name, rows, sample)
    notes = about_estimates(estimates, sample, len(data.features))
    return NeuralCollapse(
        **{name: found.value for name, found in estimates.items()},
        **_exact_measures(statistics),
        **of_weight,
        nc1=whitened.nc1.class_weighted,
        nc1_pooled=whitened.nc1.pooled,
        nc1_rank=whitened.nc1.rank,
        sampled=estimates,
        warnings=(*_about_classes(statistics), *notes),
    )


class _KeptMeasures(TypedDict):
    """The measures that need a pass over the features after the means are known."""

    directional_cdnv: float
    nc1: float
    nc1_pooled: float
    nc1_rank: int
    nearest_mean_error: float
    nc4: float | None


def _kept_measures(
    data: LabelledFeatures, weight: Tensor | None, bias: Tensor | None, beside: Sequence[Reader]
) -> tuple[_KeptMeasures, tuple[str, ...]]:
    """Measure in one pass what needs the residuals, with the reasons for what is undefined."""
    whitened = WhitenedSums(data)
    nearest = NearestMeans(data)
    errors = NearestMeanErrors(nearest)
    readers: list[Reader] = [whitened, errors, *beside]
    disagreements = None
    if weight is not None and bias is not None:
        disagreements = Disagreements(nearest, weight, bias)
        readers.append(disagreements)
    directional, reasons = mean_directional_cdnv(data, beside=readers, basis=whitened.basis)
    variability = whitened.nc1
    values: _KeptMeasures = {
        "directional_cdnv": float(directional),
        "nc1": variability.class_weighted,
        "nc1_pooled": variability.pooled,
        "nc1_rank": variability.rank,
        "nearest_mean_error": errors.share(),
        "nc4": None if disagreements is None else disagreements.share(),
    }
    return values, reasons


def _weight_measures(rows: Tensor, means: Tensor) -> dict[str, float]:
    """NC2 of the classifier's rows (C, p), and NC3 against the centred class means (C, p).

    The mean angle is left out for more than 8,192 classes.
    """
    angles = {}
    if has_too_many_pairs(len(rows)):
        equinorm, equiangular = norms_and_angles(rows)
    else:
        equinorm, equiangular, angles["nc2_weight_max_angle"] = nc2(rows)
    duality = nc3(rows, means)
    return {
        **angles,
        "nc2_weight_equinorm": equinorm,
        "nc2_weight_equiangular": equiangular,
        "nc3": duality,
        "nc3_squared": duality * duality,
        "self_duality_gram": self_duality_gram(rows, means),
    }


def _about_rows(rows: Tensor) -> tuple[str, ...]:
    """A note on rows of the classifier that are 0, as before training."""
    n_zero = int((rows == 0.0).all(dim=1).sum())
    if n_zero == len(rows):
        return ("nc2_weight, nc3 and self_duality_gram: undefined, the classifier's weight is 0",)
    if n_zero:
        return (f"nc2_weight: no angles of {n_zero} of {len(rows)} classifier rows, which are 0",)
    return ()


def streamed_measures(statistics: ClassStatistics) -> tuple[dict[str, float], tuple[str, ...]]:
    """Measure what class statistics alone give, with the reasons for what is NaN or misleading.

    Averages over class pairs are estimates for more than 8,192 classes, and a reason says so.
    """
    if has_too_many_pairs(len(statistics.classes)):
        sample = PairSample.of(len(statistics.classes), device=statistics.offsets.device)
        estimates = estimates_of_pairs(statistics, sample)
        values = {name: found.value for name, found in estimates.items()}
        notes = about_estimates(estimates, sample, statistics.n_samples)
        return {**values, **_exact_measures(statistics)}, (*_about_classes(statistics), *notes)
    plug_in, why = mean_cdnv(statistics)
    corrected, why_corrected = mean_cdnv(statistics, bias_corrected=True)
    means = statistics.centred_means()
    angles = nc2(means)
    values = {
        "cdnv": float(plug_in),
        "cdnv_bias_corrected": float(corrected),
        "nc1_trace_ratio": trace_ratio(statistics),
        "nc2_equinorm": angles.equinorm,
        "nc2_equiangular": angles.equiangular,
        "nc2_max_angle": angles.max_angle,
        "hyperspherical_uniformity": hyperspherical_uniformity(means),
    }
    return values, (*_about_classes(statistics), *why, *why_corrected)


def _exact_measures(statistics: ClassStatistics) -> dict[str, float]:
    """The measures of class statistics that take no look at each pair of classes."""
    equinorm, equiangular = norms_and_angles(statistics.centred_means())
    return {
        "nc1_trace_ratio": trace_ratio(statistics),
        "nc2_equinorm": equinorm,
        "nc2_equiangular": equiangular,
    }


def _about_classes(statistics: ClassStatistics) -> tuple[str, ...]:
    reasons = []
    unseen = statistics.classes[statistics.counts == 0].tolist()
    n_classes = len(statistics.classes)
    n_features = statistics.n_features
    is_central = statistics.centred_means().square().sum(dim=1) == 0.0
    if unseen:
        listed = ", ".join(map(str, unseen[:5])) + (", ..." if len(unseen) > 5 else "")
        reasons.append(
            f"num_classes: {len(unseen)} of {n_classes} declared classes have no examples "
            f"({listed}), so averages over classes are NaN; "
            "do num_classes=None to measure the classes present"
        )
    elif bool(is_central.any()):
        reasons.append(
            "nc2: a class mean equals the mean of the class means, so its angles are NaN"
        )
        if bool(is_central.all()):
            reasons.append("nc1, nc2 and nc3: undefined, all class means are equal")
    if n_classes > n_features + 1:
        reasons.append(
            f"nc2: {n_classes} classes in {n_features} dimensions have no simplex, so nc2 cannot "
            "reach 0; read hyperspherical_uniformity"
        )
    return tuple(reasons)


def _classifier(
    data: LabelledFeatures, weight: Array | None, bias: Array | None
) -> tuple[Tensor | None, Tensor | None]:
    """Check W (C, p) and b (C,), and move them to float64 on the features' device."""
    n_classes = len(data.statistics.classes)
    n_features = data.features.shape[1]
    if weight is None and bias is not None:
        raise ValueError(
            "weight: expected the classifier's weight beside its bias, got None; do "
            "weight=head.weight"
        )
    w = None if weight is None else as_tensor("weight", weight).double().to(data.features.device)
    b = None if bias is None else as_tensor("bias", bias).double().to(data.features.device)
    if w is not None and w.shape != (n_classes, n_features):
        raise ValueError(
            f"weight: expected shape ({n_classes}, {n_features}), one row for each class, got "
            f"{tuple(w.shape)}; do num_classes=len(weight) if some classes have no examples"
        )
    if b is not None and b.shape != (n_classes,):
        raise ValueError(
            f"bias: expected shape ({n_classes},), got {tuple(b.shape)}; do bias=head.bias"
        )
    for name, tensor in (("weight", w), ("bias", b)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{name}: expected finite numbers, got NaN or infinity; do check the classifier"
            )
    return w, b
