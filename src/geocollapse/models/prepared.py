"""Data made ready for one model: its preprocessing, normalisation and tokenizer are applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from geocollapse import data as datasets
from geocollapse.data import (
    Classes,
    Labelled,
    LabelledData,
    LabelledImages,
    LabelledTexts,
    LabelledTokens,
    Pixels,
    RawImages,
    Tokenizer,
)
from geocollapse.data.columns import Columns
from geocollapse.data.token_rows import TokenRows, holds_tokens, labelled_tokens
from geocollapse.data.tokens import padding_of
from geocollapse.models.hugging_face import load_tokenizer
from geocollapse.models.loaded import LoadedModel

Prepared = LabelledData | LabelledImages | LabelledTokens

# Types of transformers models with token types, but without their number in the configuration.
_WITHOUT_NUMBER = ("xlnet", "funnel")


def prepare(
    loaded: LoadedModel,
    data: str | Labelled | RawImages | TokenRows,
    *,
    split: str | None = None,
    default_split: str = "train",
    data_root: str | Path | None = None,
    classes: Classes = None,
    subset: int | None = None,
    seed: int = 0,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    image_column: str | None = None,
    skip_broken: bool = False,
    require_labels: bool = True,
    tokenizer: Tokenizer | str | None = None,
    max_length: int | None = None,
    next_tokens: int | None = None,
) -> Prepared:
    """The examples of ``data`` as inputs of one model.

    Images go through the model's own preprocessing; those of a run folder are normalised as in
    training; other images keep the normalisation of the data set. Texts become tokens.

    Args:
        loaded: the model.
        data: the name of a data set, as for ``geocollapse.data.load``, or a loaded one:
            ``LabelledData``, ``LabelledTexts``, or (PIL image, label) pairs with ``targets`` and
            ``classes``, as torchvision's data sets are without a transform, or rows of unpadded
            tokens, as mappings with ``input_ids`` and ``label``.
        split: takes the place of one in the name.
        default_split: if neither names one.
        data_root: folder of the data.
        classes: ``"0-4,7"`` or names; labels are renumbered 0..k-1 in this order.
        subset: this many examples, seeded and balanced over classes.
        seed: of the subset.
        image_size: pixels a side, instead of the model's own size or the images' own.
        mean: of each channel, instead of the model's or the data set's own.
        std: of each channel, likewise.
        text_column: of the texts of a ``csv:FILE``; ``text`` by default.
        label_column: of the classes of a ``csv:FILE`` or ``parquet:GLOB``; ``label`` by default,
            else ``category`` or ``labels``.
        image_column: of the images of a ``parquet:GLOB``; ``image`` or ``img`` by default.
        skip_broken: leave out images of files that do not decode, with a note; see
            ``geocollapse.data.load``.
        require_labels: refuse a folder or a table without classes; see ``geocollapse.data.load``.
        tokenizer: of texts, or its ID or folder; by default the one that lies with the model.
        max_length: cuts texts after so many tokens.
        next_tokens: makes the next tokens of texts the classes, and up to so many tokens before
            them the examples.

    Raises:
        TypeError: ``data`` is no data set of these kinds.
        ValueError: an unknown name, split or class; an option that this model or data set does not
            take; texts without a tokenizer.
        FileNotFoundError: missing files (the places looked in are named).
        ImportError: a library is missing (the pip command is named).

    Examples:
        >>> ready = prepare(LoadedModel(nn.Flatten(), "flat"), "digits:test", classes="0-4")
        >>> ready.inputs.shape[1:], ready.split
        (torch.Size([1, 8, 8]), 'test')
    """
    own = loaded.normalisation
    pixels = Pixels(
        mean=own.mean if mean is None else mean,
        std=own.std if std is None else std,
        pad_to=own.pad_to,
        image_size=own.image_size if image_size is None else image_size,
        preprocessing=loaded.preprocessing,
    )
    if isinstance(data, str):
        found = datasets.load(
            data,
            split=split,
            default_split=default_split,
            data_root=data_root,
            classes=classes,
            subset=subset,
            seed=seed,
            text_column=text_column,
            label_column=label_column,
            image_column=image_column,
            skip_broken=skip_broken,
            require_labels=require_labels,
            **vars(pixels),
        )
    else:
        Columns(text_column, label_column, image_column).refuse("data that are loaded")
        if skip_broken:
            raise ValueError(
                "skip_broken: expected False for data that are loaded, got True; do leave it out, "
                "or call without_broken() of LabelledImages"
            )
        if holds_tokens(data):
            pixels.refuse()
            _Tokens(None, max_length, next_tokens).refuse("rows of tokens")
            tokens = _padded(cast("TokenRows", data), loaded, tokenizer)
            is_whole = classes is None and subset is None
            return tokens if is_whole else tokens.select(classes=classes, subset=subset, seed=seed)
        found = datasets.made_ready(cast("Labelled | RawImages", data), pixels)
        if classes is not None or subset is not None:
            found = found.select(classes=classes, subset=subset, seed=seed)
    return _tokenised(found, loaded, _Tokens(tokenizer, max_length, next_tokens))


def _padded(
    rows: TokenRows, loaded: LoadedModel, tokenizer: Tokenizer | str | None
) -> LabelledTokens:
    """Rows of tokens, padded with the token of the tokenizer; without one any will do."""
    own = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer or loaded.tokenizer
    return labelled_tokens(rows, 0 if own is None else padding_of(own))


def has_token_types(model: nn.Module) -> bool:
    """True unless a model is known to have no token types.

    Some models of transformers without token types embed them as if they were tokens.
    """
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    return kind in (None, *_WITHOUT_NUMBER) or hasattr(config, "type_vocab_size")


@dataclass(frozen=True)
class _Tokens:
    """How texts become tokens; see ``prepare``."""

    tokenizer: Tokenizer | str | None
    max_length: int | None
    next_tokens: int | None

    def refuse(self, name: str) -> None:
        """Raise a ValueError if anything is asked of data without texts."""
        for option, value in vars(self).items():
            if value is not None:
                raise ValueError(
                    f"{option}: expected none with {name}, which holds no texts, got {value}"
                )


def _tokenised(found: Labelled, loaded: LoadedModel, asked: _Tokens) -> Prepared:
    """Texts as tokens; other data as it is."""
    if not isinstance(found, LabelledTexts):
        asked.refuse(found.name)
        return found
    tokenizer = loaded.tokenizer if asked.tokenizer is None else asked.tokenizer
    if tokenizer is None:
        raise ValueError(
            f"tokenizer: expected one for the texts of {found.name}, got none with {loaded.name}; "
            f"do tokenizer=DIR"
        )
    if isinstance(tokenizer, str):
        tokenizer = load_tokenizer(tokenizer)
    if asked.next_tokens is None:
        return found.tokens(
            tokenizer, max_length=asked.max_length, token_types=has_token_types(loaded.model)
        )
    return found.next_tokens(tokenizer, context=asked.next_tokens, max_length=asked.max_length)
