"""Texts as sentence features of a language model, to train a small network on."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from geocollapse import models
from geocollapse.data import LabelledData, LabelledTexts
from geocollapse.data.labelled import About
from geocollapse.measurement.collect import collect_features

_BATCH_SIZE = 64


def sentence_features(texts: LabelledTexts, text_model: str) -> LabelledData:
    """Each text as one row of features, scaled to a root mean square of 1.

        x = m sqrt(p)/||m||,  m the mean over the tokens of the last hidden layer (p features)

    Unit length is what sentence encoders are compared at; the factor sqrt(p) gives entries the size
    that networks are initialised for. The features are kept for the next run of this process. Cost:
    one forward pass of the language model.

    Args:
        texts: labelled.
        text_model: ``hf:ID`` or ``hf:DIR``, with its tokenizer.

    Raises:
        ValueError: no language model of that name, or one without a tokenizer.
        ImportError: transformers is missing.
    """
    features = _features(tuple(texts.texts), text_model)
    return LabelledData(features, texts.targets, texts.about)


@lru_cache(maxsize=8)
def _features(texts: tuple[str, ...], text_model: str) -> Tensor:
    loaded = models.load(text_model)
    about = About("texts", "all", ("all",))
    labelled = LabelledTexts(list(texts), torch.zeros(len(texts), dtype=torch.int64), about)
    tokens = models.prepare(loaded, labelled)
    means = collect_features(
        loaded.model, tokens, pool="mean", batch_size=_BATCH_SIZE
    ).features.float()
    return means * (means.shape[1] ** 0.5 / means.norm(dim=1, keepdim=True))
