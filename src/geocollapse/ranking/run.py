"""``rank``: several models on one target, best first, with ties and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import torch

from geocollapse.complexity.setup import Data, Model
from geocollapse.data import LabelledData, LabelledTexts, RawImages
from geocollapse.data.labelled import Described
from geocollapse.features import Pool
from geocollapse.measurement import LayerMeasurement, Measurement
from geocollapse.models import LoadedModel, TrainingRecord, prepare
from geocollapse.ranking.accuracy import EpisodeSettings
from geocollapse.ranking.candidate import Candidate, FeatureSettings, Opened, Taken, features_of
from geocollapse.ranking.order import Mode, RankSettings, check_same_examples, rank_features
from geocollapse.ranking.result import FailedModel, Ranking
from geocollapse.store import KeptLayer, read_features
from geocollapse.store.cache import FeatureCache
from geocollapse.transfer.few_shot import Classifier


def rank(
    models: Mapping[str, object],
    data: Data | None = None,
    *,
    n_way: int | None = None,
    k_shot: int = 5,
    n_query: int = 15,
    n_episodes: int = 600,
    classifier: Classifier = "nearest_mean",
    mode: Mode | None = None,
    layer: str | None = None,
    pool: Pool | None = None,
    gc_samples: int | None = None,
    batch_size: int | None = None,
    autocast: torch.dtype | None = None,
    cache: FeatureCache | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Ranking:
    """Rank models by how well their features will do on a target with few labels.

    Measured: few-shot accuracy over seeded episodes, the same ones for all models, with the error
    over other examples of these classes. Two models are tied unless the paired difference is
    significant after Holm's correction for all pairs. Beside it stand the accuracy predicted from
    the geometry and the transferability scores of ``geocollapse.measures.SCORES``, each with its
    agreement with the measured order. Predicted: for too few labels to measure with, the models are
    ordered by the predicted accuracy. Without labels, or with one class: by RankMe, a guess.

    Cost: one forward pass of each model, probes of one example in 20, and about a second a model
    for 1,000 examples.

    Source: definitions 4 and 5; McCarthy (1969) for the error over half-samples; Holm (1979).

    Args:
        models: by label: a module, a loaded model, a callable from inputs to features, a pair
            (model, data) for data of its own, a measurement, or the path of a features file.
        data: of the models without their own: as ``geocollapse.measure`` takes it, or the name of
            a data set, or raw images or texts, which each loaded model prepares in its own way; a
            tensor of inputs has no labels. All models must see the same examples in the same order.
        n_way: classes of an episode; None for 5, or all if there are fewer.
        k_shot: labelled examples of each class.
        n_query: examples of each class to classify, at most; fewer where a class is small.
        n_episodes: number of episodes.
        classifier: of the features, see ``geocollapse.few_shot_accuracy``.
        mode: ``measured`` or ``predicted``; None for measured where every class has ``k_shot`` + 1
            examples.
        layer: of each model, as for ``geocollapse.measure``.
        pool: how positions are pooled.
        gc_samples: examples whose Jacobians are probed; None for one in 20, at least 50.
        batch_size: examples that go through a model together.
        autocast: ``torch.bfloat16`` or ``torch.float16``.
        cache: keeps features on disk, for data sets that have a fingerprint, and what was computed
            from features.
        seed: of episodes, probes, bootstraps and shuffles.
        progress: show progress bars on stderr.

    Returns:
        A Ranking; models that could not be ranked are in ``failed`` with the reason.

    Raises:
        ValueError: no model, or data that no model can be ranked on.
        Exception: that of the first model, if all fail.

    Examples:
        >>> data = torch.randn(200, 8), torch.arange(200) % 4
        >>> models = {name: torch.nn.Linear(8, 4) for name in ("a", "b")}
        >>> ranking = rank(models, data, layer="")
        >>> ranking.models[0].accuracy.n_samples
        600
    """
    episodes = EpisodeSettings(
        k_shot=k_shot,
        n_query=n_query,
        n_episodes=n_episodes,
        classifier=classifier,
        seed=seed,
    )
    features = FeatureSettings(
        layer=layer,
        pool=pool,
        gc_samples=gc_samples,
        batch_size=batch_size,
        autocast=autocast,
        seed=seed,
        progress=progress,
    )
    candidates = [
        Candidate(label, partial(_opened, model, data)) for label, model in models.items()
    ]
    settings = RankSettings(episodes, n_way=n_way, mode=mode)
    return rank_candidates(candidates, features, settings, cache=cache)


def rank_candidates(
    candidates: Sequence[Candidate],
    features: FeatureSettings,
    settings: RankSettings,
    *,
    cache: FeatureCache | None = None,
) -> Ranking:
    """Take the features of each model in turn, and rank those that have them.

    Raises:
        ValueError: no model, two of the same label.
        Exception: that of the first model, if all fail.
    """
    _check_labels([label for candidate in candidates for label in candidate.labels])
    kept: dict[str, KeptLayer] = {}
    records: dict[str, TrainingRecord] = {}
    failures: dict[str, Exception] = {}
    for candidate in candidates:
        for label, found in features_of(candidate, features, cache).items():
            error = found if isinstance(found, Exception) else _mismatch(label, found.kept, kept)
            if error is not None:
                failures[label] = error
            elif isinstance(found, Taken):
                kept[label] = found.kept
                if found.record is not None:
                    records[label] = found.record
    if not kept:
        raise next(iter(failures.values()))
    ranking = rank_features(kept, settings, records, cache)
    failed = tuple(FailedModel(label, one_line(error)) for label, error in failures.items())
    return replace(ranking, failed=(*failed, *ranking.failed))


def _mismatch(label: str, found: KeptLayer, others: Mapping[str, KeptLayer]) -> Exception | None:
    """The error of features of other examples than those of the other models."""
    try:
        check_same_examples(label, found, others)
    except ValueError as error:
        return error
    return None


def one_line(error: Exception) -> str:
    """The text of an error in one line, or its type."""
    return " ".join(str(error).split()) or type(error).__name__


def _opened(model: object, data: Data | None) -> Opened | KeptLayer:
    """A model in one of the forms that ``rank`` takes."""
    if isinstance(model, Measurement | LayerMeasurement):
        return model.kept
    if isinstance(model, KeptLayer):
        return model
    if isinstance(model, str | Path):
        return read_features(model, require_labels=False)
    if isinstance(model, tuple):
        model, data = model
    if data is None:
        raise ValueError("data: expected examples for the models, got none; do rank(models, data)")
    if isinstance(data, torch.Tensor):  # inputs without labels
        data = data, torch.zeros(len(data), dtype=torch.int64)
    if isinstance(model, LoadedModel):
        is_raw = _is_raw(data)
        if is_raw:
            raw = cast("str", data)
            data = prepare(model, raw, default_split="test", require_labels=False)
        return Opened(cast("Model", model), data, record=model.record)
    return Opened(cast("Model", model), data)


def _is_raw(data: Data) -> bool:
    """True for data that each loaded model prepares in its own way."""
    if isinstance(data, str | LabelledData | LabelledTexts):
        return True
    is_raw = isinstance(data, RawImages) and len(data) > 0 and hasattr(data[0][0], "convert")
    return is_raw and not isinstance(data, Described)


def _check_labels(labels: Sequence[str]) -> None:
    if not labels:
        raise ValueError("models: expected at least one, got none; do rank({'a': model}, data)")
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(
                f"models: expected different labels, got {label!r} twice; do name one otherwise"
            )
