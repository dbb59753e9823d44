"""Models on a target without labels, in an order that is a guess."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from geocollapse.complexity.means import dataset_complexity
from geocollapse.data.labelled import UNLABELLED
from geocollapse.estimate import Estimate
from geocollapse.influence import Influence
from geocollapse.measures import SCORES
from geocollapse.models import TrainingRecord
from geocollapse.ranking.model import UNASKED
from geocollapse.ranking.result import RankedModel, Ranking, Target, text_or_none
from geocollapse.ranking.scores import Score, score_unlabelled
from geocollapse.ranking.source_scores import source_scores
from geocollapse.runtime.provenance import provenance
from geocollapse.store import KeptLayer

GUESS = "a guess without labels"
GUESSED_BY = "label_free.rankme"
"""The score that orders models without labels.

Of the scores that need none, it alone can be compared across models of different input size, like
those of docs/rankings, where it agreed with the measured order. Complexity per pixel and variance
depends on the resolution.
"""


def is_unlabelled(kept: KeptLayer) -> bool:
    """True if all examples have one label, so that there is nothing to tell apart."""
    return len(kept.labels.unique()) < 2


def guess(
    kept: Mapping[str, KeptLayer],
    mode: str | None,
    seed: int,
    records: Mapping[str, TrainingRecord],
    is_path: bool,
) -> Ranking:
    """Order models by RankMe of their features on the same examples, the highest first.

    Nothing is measured: there are no pairs, no ties and no agreement of scores.

    Args:
        kept: features, by label.
        mode: as it was asked for; None for this one.
        seed: of the error of the scores.
        records: of the training of models, by label.
        is_path: the models are checkpoints of one training, in its order.

    Raises:
        ValueError: a mode that needs labels.
    """
    first = next(iter(kept.values()))
    if mode is not None:
        raise ValueError(
            f"mode: expected None for a target without labels of two classes, got {mode!r}; do "
            f"leave it out, or label examples of two classes"
        )
    models = [_model(label, layer, records.get(label), seed) for label, layer in kept.items()]
    models.sort(key=_place)  # stable: equal scores keep the order given
    return Ranking(
        models=tuple(models),
        ranked_by=GUESSED_BY,
        pairs=[],
        agreement={},
        advice=_advice(models),
        path=tuple(kept) if is_path else (),
        about=_target(first),
        warnings=(*_about_labels(first), *_about_widths(models)),
        provenance=provenance(seed=seed, device=first.features.device),
    )


def _model(label: str, kept: KeptLayer, record: TrainingRecord | None, seed: int) -> RankedModel:
    scores = score_unlabelled(kept.features, seed=seed) | source_scores(record, kept.layer)
    ratio = _complexity_per_variance(kept)
    if ratio is not None:
        scores["per_pixel.gc_per_variance"] = Score("per_pixel.gc_per_variance", ratio)
    return RankedModel(
        label=label,
        kept=kept,
        sampled=None,
        curve={},
        predicted=None,
        geometric_complexity=_complexity(kept),
        scores={name: scores[name] for name in SCORES if name in scores},
        warnings=(GUESS, *(w for w in kept.context.warnings if not w.startswith(UNASKED))),
    )


def _complexity(kept: KeptLayer) -> Estimate | None:
    """Geometric complexity of the map to the layer; None without Jacobians."""
    context = kept.context
    if not len(context.probed):
        return None
    settings = replace(context.settings, layer=kept.layer)
    n_examples = context.n_population
    return dataset_complexity(kept.norms, n_examples, None, context.class_counts, settings)


def _complexity_per_variance(kept: KeptLayer) -> Estimate | None:
    """Geometric complexity in raw pixels over the total feature variance, with its error.

    The influences of the mean g over m probed examples and of the unbiased variance v over n are
    u_i = (g_i - g)/m and w_i = (s_i - v)/n, s_i = n/(n - 1) |z_i - mean|^2; those of r = g/v are
    (u_i - r w_i)/v.

    None without Jacobians in pixels, or where all features are the same.
    """
    norms = kept.norms.per_pixel()
    rows = kept.context.probed
    if norms is None or len(rows) < 2:
        return None
    z = kept.features.double()
    squares = (z - z.mean(dim=0)).square().sum(dim=1) * len(z) / (len(z) - 1)
    variance = float(squares.mean())
    if not variance > 0.0:
        return None
    g = norms.values.to(z).double()
    value = float(g.mean()) / variance
    terms = -value * (squares - variance) / (len(z) * variance)
    terms = terms.index_add(0, rows.to(z.device), (g - g.mean()) / (len(g) * variance))
    influence = Influence(terms.cpu(), kept.labels, kept.context.ids)
    stderr, dof = influence.spread()
    return Estimate(
        value,
        stderr,
        n_samples=len(g),
        n_probes=kept.context.settings.n_probes,
        population="distribution",
        estimator="delta",
        dof=dof,
        layer=kept.layer,
    )


def _place(model: RankedModel) -> float:
    """A sort key: the best score first, a model without one last."""
    value = model.scores[GUESSED_BY].value
    return math.inf if math.isnan(value) else -value


def _advice(models: Sequence[RankedModel]) -> str:
    """The order in a sentence, and what would make it more than a guess."""
    first = models[0].label
    name = SCORES[GUESSED_BY].short
    if len(models) == 1:
        found = f"{first} is the only model: there is nothing to compare it with."
    else:
        found = f"{first} comes first by {name} alone; no accuracy was measured or predicted."
    return (
        f"A guess without labels: {found} Label 4 examples of each class to predict 5-shot "
        f"accuracy, 12 to measure it with an error."
    )


def _target(kept: KeptLayer) -> Target:
    """The examples; there are no classes and no episodes."""
    context = kept.context
    return Target(
        data=text_or_none(context.provenance.get("data")),
        split=context.split,
        classes=(),
        n_samples=len(kept.labels),
        smallest_class=0,
        n_way=0,
        k_shot=0,
        n_query=0,
        n_episodes=0,
        classifier="none",
    )


def _about_labels(kept: KeptLayer) -> tuple[str, ...]:
    """A note where the examples have labels, but all the same one."""
    names = kept.context.class_names
    name = None if names is None else names[int(kept.labels[0])]
    if name in (None, UNLABELLED):
        return ()
    return (f"all examples are of class {name!r}, which says as little as no labels",)


def _about_widths(models: Sequence[RankedModel]) -> tuple[str, ...]:
    """A note where the largest possible value of RankMe differs between the models."""
    widths = {model.label: min(model.kept.features.shape) for model in models}
    if len(set(widths.values())) < 2:
        return ()
    listed = ", ".join(f"{label} {width:,}" for label, width in widths.items())
    return (f"RankMe is at most the number of features or of examples: {listed}",)
