"""``compare``: two models on the same examples, measure by measure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from geocollapse.complexity.setup import Data, Model
from geocollapse.estimate import paired
from geocollapse.measurement import LayerMeasurement, Measurement, measure
from geocollapse.measurement.layer import READERS
from geocollapse.measures import MEASURES, incomparable
from geocollapse.ranking.accuracy import Draws, EpisodeSettings, sampled_accuracy
from geocollapse.ranking.comparable import DECIDING, Circumstances, differences
from geocollapse.ranking.comparison import Compared, Comparison
from geocollapse.ranking.order import RankSettings, check_same_examples, fitted

_SHOWN = ("geometric_complexity", "nearest_mean_error")


def compare(
    a: Model | Measurement | LayerMeasurement,
    b: Model | Measurement | LayerMeasurement,
    data: Data | None = None,
    *,
    labels: tuple[str, str] = ("first", "second"),
    layer: str | None = None,
    k_shot: int = 5,
    n_way: int | None = None,
    max_samples: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same examples, measure by measure.

        difference = value of a - value of b,    SE^2 = sum_i (u_i - v_i)^2

    u_i, v_i the influence of example i on both values: what both models find hard cancels. Only
    measures that are free of the feature scale and the input normalisation decide: complexity over
    variance and geometric collapse (per raw pixel where that is known), CDNV, NC1 and few-shot
    accuracy; what follows from complexity only among models of equal input size. Geometric
    complexity itself is shown, and is not comparable where width or preprocessing differ. Each
    interval is at 95 % for examples like these. Cost: that of two ``measure``.

    Source: definitions 3 and 5; Efron (1982), chapter 6, for paired influences.

    Args:
        a: a model, or a measurement.
        b: another model, or a measurement of the same examples.
        data: as for ``geocollapse.measure``; None with two measurements.
        labels: names of both.
        layer: of each model, as for ``geocollapse.measure``: by default its embedding.
        k_shot: labelled examples of each class for few-shot accuracy.
        n_way: classes of an episode; None for 5, or all if there are fewer.
        max_samples: probe at most this many examples; collapse uses all.
        batch_size: examples that go through a model together.
        seed: of probes and episodes.

    Raises:
        ValueError: models without data, measurements of different examples; see
            ``geocollapse.measure``.

    Examples:
        >>> y = torch.arange(300) % 3
        >>> x = torch.randn(300, 8) + 3 * torch.nn.functional.one_hot(y, 8)
        >>> f = torch.nn.Linear(8, 3)
        >>> found = compare(f, f, (x, y), layer="")
        >>> found["cdnv"].decision
        'cannot be told apart'
    """
    episodes = RankSettings(EpisodeSettings(k_shot=k_shot, seed=seed), n_way=n_way)
    if len(labels) != 2 or labels[0] == labels[1]:
        raise ValueError(
            f"labels: expected two different names, got {labels!r}; do labels=('first', 'second')"
        )
    first, second = (
        _measured(model, data, layer, max_samples, batch_size, seed) for model in (a, b)
    )
    return compare_layers(first, second, labels, episodes)


def compare_layers(
    first: LayerMeasurement,
    second: LayerMeasurement,
    labels: tuple[str, str],
    episodes: RankSettings,
) -> Comparison:
    """Compare two measurements of the same examples.

    Raises:
        ValueError: measurements of different examples.
    """
    check_same_examples(labels[1], second.kept, {labels[0]: first.kept})
    differing = differences(_circumstances(first), _circumstances(second))
    deciding = [_row(_common(names, first, second), first, second, differing) for names in DECIDING]
    accuracy, notes = _few_shot(first, second, episodes)
    shown = [_row(name, first, second, differing) for name in _SHOWN if _has(name, first, second)]
    context = first.kept.context
    return Comparison(
        labels=labels,
        layers=(first.layer, second.layer),
        n_samples=len(first.labels),
        split=context.split,
        rows=(*accuracy, *deciding, *shown),
        n_deciding=len(accuracy) + len(deciding),
        notes=notes,
        warnings=tuple(dict.fromkeys((*notes, *first.warnings, *second.warnings))),
        provenance=context.provenance,
    )


def _measured(
    model: Model | Measurement | LayerMeasurement,
    data: Data | None,
    layer: str | None,
    max_samples: int | None,
    batch_size: int | None,
    seed: int,
) -> LayerMeasurement:
    if isinstance(model, Measurement | LayerMeasurement):
        return model._only("compare")
    if data is None:
        raise ValueError("data: expected examples for the models, got none; do compare(a, b, data)")
    found = measure(
        model, data, layer=layer, max_samples=max_samples, batch_size=batch_size, seed=seed
    )
    return found._only("compare")


def _has(name: str, *layers: LayerMeasurement) -> bool:
    return all(READERS[name](layer) is not None for layer in layers)


def _common(names: Sequence[str], *layers: LayerMeasurement) -> str:
    """The first of ``names`` that both layers have."""
    return next((name for name in names if _has(name, *layers)), names[-1])


def _row(
    name: str, first: LayerMeasurement, second: LayerMeasurement, differing: Mapping[str, str]
) -> Compared:
    """One measure of both, with its paired difference where both have influences."""
    measure_ = MEASURES[name]
    a, b = (layer.estimates.get(name) for layer in (first, second))
    difference = None
    if a is not None and b is not None and a.influence and b.influence:
        difference = paired(a, b)
    return Compared(
        name=name,
        label=measure_.full_name,
        short=measure_.short,
        first=_value(name, first),
        second=_value(name, second),
        difference=difference,
        better=measure_.better,
        note=incomparable(differing, measure_.invariant_to),
    )


def _value(name: str, layer: LayerMeasurement) -> float:
    """The estimate for the population where there is one, so that the difference is theirs."""
    estimate = layer.estimates.get(name)
    found = READERS[name](layer) if estimate is None else estimate
    return math.nan if found is None else float(found)


def _circumstances(layer: LayerMeasurement) -> Circumstances:
    """Width and inputs of a layer; the examples are those of the other model."""
    return Circumstances(
        n_features=layer.features.shape[1], preprocessing=layer.kept.context.preprocessing
    )


def _few_shot(
    first: LayerMeasurement, second: LayerMeasurement, settings: RankSettings
) -> tuple[list[Compared], tuple[str, ...]]:
    """Few-shot accuracy of both on the same episodes; none where a class is too small."""
    try:
        _, episodes = fitted(first.kept, replace(settings, mode="measured"))
    except ValueError as error:
        return [], (f"few-shot accuracy: left out, {error}",)
    draws = Draws.of(first.labels, episodes)
    a, b = (
        sampled_accuracy(layer.features, layer.labels, episodes, draws) for layer in (first, second)
    )
    label = f"{episodes.k_shot}-shot accuracy"
    row = Compared(
        name="few_shot_accuracy",
        label=label,
        short=label,
        first=a.over_episodes.value,
        second=b.over_episodes.value,
        difference=(a - b).estimate(),
        better="higher",
    )
    return [row], ()
