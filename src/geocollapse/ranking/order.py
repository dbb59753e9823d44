"""From the features of several models on the same examples to their ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal, get_args

import torch

from geocollapse.measures import SCORES, incomparable
from geocollapse.models import TrainingRecord
from geocollapse.ranking.accuracy import Draws, EpisodeSettings
from geocollapse.ranking.advice import advise, advise_checkpoint
from geocollapse.ranking.agreement import Agreement, agreement
from geocollapse.ranking.cached import RankedCache
from geocollapse.ranking.candidate import TRAINED_ON
from geocollapse.ranking.comparable import differing_inputs, input_changes
from geocollapse.ranking.guess import guess, is_unlabelled
from geocollapse.ranking.model import rank_model
from geocollapse.ranking.result import RankedModel, Ranking, Target, text_or_none
from geocollapse.ranking.ties import Pair, compare_all
from geocollapse.runtime.provenance import provenance
from geocollapse.store import KeptLayer
from geocollapse.store.cache import FeatureCache
from geocollapse.transfer.episodes import EpisodeSizes
from geocollapse.transfer.few_shot import find_classifier

Mode = Literal["measured", "predicted"]
_MOST_WAYS = 5
_LEAST_FOR_MOMENTS = 4  # examples a class; definitions 4


@dataclass(frozen=True)
class RankSettings:
    """What models are ranked by.

    Attributes:
        episodes: ``n_query`` is the most; fewer are taken where a class is small.
        n_way: classes of an episode; None for 5, or all classes if there are fewer.
        mode: ``measured`` or ``predicted``; None for measured where the labels suffice.
        is_path: the models are checkpoints of one training, in its order.

    Raises:
        ValueError: a number that no episode can have, an unknown mode or classifier.
    """

    episodes: EpisodeSettings
    n_way: int | None = None
    mode: Mode | None = None
    is_path: bool = False

    def __post_init__(self) -> None:
        if self.mode not in (None, *get_args(Mode)):
            raise ValueError(
                f"mode: expected 'measured', 'predicted' or None, got {self.mode!r}; do mode=None"
            )
        asked = self.episodes
        n_way = 2 if self.n_way is None else self.n_way
        n_query = 1 if self.mode == "predicted" else asked.n_query
        EpisodeSizes(n_way, asked.k_shot, n_query, asked.n_episodes)
        find_classifier(asked.classifier)
        if not isinstance(asked.seed, Integral) or int(asked.seed) < 0:
            raise ValueError(
                f"seed: expected a whole number of at least 0, got {asked.seed!r}; do seed=0"
            )


def rank_features(
    kept: Mapping[str, KeptLayer],
    settings: RankSettings,
    records: Mapping[str, TrainingRecord] | None = None,
    cache: FeatureCache | None = None,
) -> Ranking:
    """Rank models by their features on the same labelled examples.

    Args:
        kept: features, by label.
        settings: what models are ranked by.
        records: of the training of models, by label; for scores that need no target.
        cache: keeps what was computed of each model on disk.

    Raises:
        ValueError: too few examples of a class, which is named with their number.
    """
    first = next(iter(kept.values()))
    if is_unlabelled(first):
        return guess(kept, settings.mode, settings.episodes.seed, records or {}, settings.is_path)
    target, episodes = fitted(first, settings)
    is_measured = episodes.n_query > 0
    models = _models(kept, records or {}, RankedCache(cache, episodes, is_measured))
    if is_measured:
        pairs = compare_all({m.label: m.sampled for m in models if m.sampled is not None})
    else:
        pairs = compare_all({m.label: m.predicted for m in models if m.predicted is not None})
    path = tuple(kept) if settings.is_path else ()
    models.sort(key=lambda model: -model.ranked_by.value)  # stable: ties keep the order given
    found, left_out = _agreements(models, episodes.seed) if is_measured else ({}, ())
    return Ranking(
        models=tuple(models),
        ranked_by="accuracy" if is_measured else "predicted_accuracy",
        pairs=pairs,
        agreement=found,
        advice=_advice(models, pairs, target, path, found),
        path=path,
        about=target,
        warnings=(
            *_same_models(models),
            *_trained_on_target(models),
            *_inputs(models),
            *left_out,
        ),
        provenance=provenance(seed=episodes.seed, device=first.features.device),
    )


def _models(
    kept: Mapping[str, KeptLayer], records: Mapping[str, TrainingRecord], cache: RankedCache
) -> list[RankedModel]:
    """Each model as the cache has it, else computed; episodes are drawn for these alone."""
    found = {label: cache.read(label, layer, records.get(label)) for label, layer in kept.items()}
    missing = [label for label, model in found.items() if model is None]
    draws = None
    if missing and cache.is_measured:
        draws = Draws.of(kept[missing[0]].labels, cache.episodes)
    for label in missing:
        record = records.get(label)
        found[label] = model = rank_model(label, kept[label], cache.episodes, draws, record)
        cache.write(model, record)
    return [model for model in found.values() if model is not None]


def check_same_examples(label: str, found: KeptLayer, others: Mapping[str, KeptLayer]) -> None:
    """Refuse features of other examples than those of the other models.

    Raises:
        ValueError: another number of examples, or other labels.
    """
    for other, kept in others.items():
        if len(found.labels) != len(kept.labels):
            raise ValueError(
                f"data: expected the {len(kept.labels)} examples of {other}, got "
                f"{len(found.labels)} for {label}; do give all models the same examples"
            )
        if not torch.equal(found.labels.cpu(), kept.labels.cpu()):
            raise ValueError(
                f"data: expected the examples of {other}, got other labels for {label}; do give "
                f"all models the same examples in the same order"
            )


def fitted(kept: KeptLayer, settings: RankSettings) -> tuple[Target, EpisodeSettings]:
    """The episodes that the smallest class allows, and the description of the target."""
    asked = settings.episodes
    classes, counts = kept.labels.unique(return_counts=True)
    names = kept.context.names_of(classes.tolist())
    least = int(counts.min())
    smallest = names[int(counts.argmin())]
    n_way = min(_MOST_WAYS, len(classes)) if settings.n_way is None else settings.n_way
    n_query = min(asked.n_query, least - asked.k_shot)
    if settings.mode == "predicted" or (settings.mode is None and n_query < 1):
        n_query = 0
        if least < _LEAST_FOR_MOMENTS:
            raise ValueError(
                f"data: expected at least {_LEAST_FOR_MOMENTS} examples of each class, got {least} "
                f"of {smallest!r}; do add examples, or leave the class out"
            )
    elif n_query < 1:
        raise ValueError(
            f"k_shot: expected at least {asked.k_shot + 1} examples of each class for "
            f"{asked.k_shot} shots and a query, got {least} of {smallest!r}; do a smaller k_shot, "
            f"or mode='predicted'"
        )
    episodes = replace(asked, n_way=n_way, n_query=n_query)
    context = kept.context
    target = Target(
        data=text_or_none(context.provenance.get("data")),
        split=context.split,
        classes=names,
        n_samples=len(kept.labels),
        smallest_class=least,
        n_way=n_way,
        k_shot=asked.k_shot,
        n_query=n_query,
        n_episodes=asked.n_episodes,
        classifier=asked.classifier,
    )
    return target, episodes


def _advice(
    models: Sequence[RankedModel],
    pairs: Sequence[Pair],
    target: Target,
    path: Sequence[str],
    found: Mapping[str, Agreement],
) -> str:
    if path and len(models) > 1:
        return advise_checkpoint(models, pairs, path, found)
    return advise(models, pairs, target)


def _agreements(
    models: Sequence[RankedModel], seed: int
) -> tuple[dict[str, Agreement], tuple[str, ...]]:
    """The agreement of each score with the measured accuracy, and a note on those left out."""
    accuracies = {model.label: model.sampled for model in models if model.sampled is not None}
    found = {}
    left_out: dict[str, list[str]] = {}
    for name, measure in SCORES.items():
        scored = [model for model in models if name in model.scores and model.scores[name].valid]
        if not scored or measure.better is None:
            continue
        inputs = input_changes([model.kept.context.preprocessing for model in scored])
        reason = incomparable({change: change for change in inputs}, measure.invariant_to)
        if reason:
            left_out.setdefault(reason, []).append(measure.short)
            continue
        scores = {model.label: model.scores[name] for model in scored}
        values = {label: (score.value, score.estimate.stderr) for label, score in scores.items()}
        higher = measure.better == "higher"
        found[name] = agreement(values, accuracies, higher_is_better=higher, seed=seed)
    return found, tuple(
        f"{' and '.join(names)}: agreement with accuracy left out, as the {reason} differs"
        for reason, names in left_out.items()
    )


def _same_models(models: Sequence[RankedModel]) -> tuple[str, ...]:
    """A warning for each two models with the same features."""
    notes = []
    for place, model in enumerate(models):
        for other in models[:place]:
            a, b = model.kept.features, other.kept.features
            if a.shape == b.shape and torch.equal(a, b):
                notes.append(f"{other.label} and {model.label} have the same features")
    return tuple(notes)


def _trained_on_target(models: Sequence[RankedModel]) -> tuple[str, ...]:
    """The warnings on models that have seen target classes."""
    return tuple(
        f"{model.label}: {warning}"
        for model in models
        for warning in model.warnings
        if warning.startswith(TRAINED_ON)
    )


def _inputs(models: Sequence[RankedModel]) -> tuple[str, ...]:
    """A note where the models take their inputs in different ways, with what differs."""
    prepared = [model.kept.context.preprocessing for model in models]
    parts = []
    for key, values in differing_inputs(prepared).items():
        labels: dict[str, list[str]] = {}
        for model, value in zip(models, values, strict=True):
            labels.setdefault(value, []).append(model.label)
        taken = ", ".join(f"{value} ({', '.join(of)})" for value, of in labels.items())
        parts.append(f"{key} {taken}")
    return (f"preprocessing differs: {'; '.join(parts)}",) if parts else ()
