"""Labelled texts, which a model's tokenizer turns into token sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from geocollapse.data.fingerprint import Fingerprint
from geocollapse.data.labelled import About, Classes, Described
from geocollapse.data.tokens import (
    LabelledTokens,
    Row,
    Tokenizer,
    distinct_names,
    encode,
    padding_of,
    without_token_types,
)


class LabelledTexts(Described, Dataset[tuple[str, int]]):
    """Texts with labels, kept as they are: every model has a tokenizer of its own.

    Args:
        texts: one string an example.
        labels: (n,) int64, 0..C-1.
        about: names of the classes and the split.
    """

    def __init__(self, texts: Sequence[str], labels: Tensor, about: About) -> None:
        self.texts = list(texts)
        self.targets = labels
        self.about = about

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, position: int) -> tuple[str, int]:
        return self.texts[position], int(self.targets[position])

    def select(
        self, *, classes: Classes = None, subset: int | None = None, seed: int = 0
    ) -> LabelledTexts:
        """Some classes, renumbered 0..k-1 in the order given, and a balanced subset of them."""
        rows, labels, about = self.chosen(classes, subset, seed)
        return LabelledTexts([self.texts[row] for row in rows.tolist()], labels, about)

    def _add_content(self, fingerprint: Fingerprint) -> None:
        for row in range(len(self.texts)):
            self._add_example(fingerprint, row)

    def _add_example(self, fingerprint: Fingerprint, row: int) -> None:
        fingerprint.add_value(self.texts[row])

    def tokens(
        self, tokenizer: Tokenizer, *, max_length: int | None = None, token_types: bool = True
    ) -> LabelledTokens:
        """Every text as its tokens, special tokens included.

        Args:
            tokenizer: of transformers: called with texts, it gives lists of ``input_ids`` and what
                belongs to them.
            max_length: cuts longer texts after so many tokens, with a note; by default the
                tokenizer's own limit.
            token_types: keep the tokenizer's ``token_type_ids``. Drop them for a model without
                token types, such as GPT-2, which would add them to the text as tokens.

        Raises:
            ValueError: a ``max_length`` that leaves no place for a token of the text.
        """
        rows, notes = encode(tokenizer, self.texts, max_length)
        if not token_types:
            rows, more = without_token_types(rows)
            notes += more
        padding = padding_of(tokenizer)
        return LabelledTokens(rows, self.targets, self.about, padding=padding, notes=notes)

    def next_tokens(
        self,
        tokenizer: Tokenizer,
        *,
        context: int,
        min_count: int = 2,
        max_length: int | None = None,
    ) -> LabelledTokens:
        """Every place in every text: its example the tokens before it, its class the token there.

        Source: Wu and Papyan (2024), "Linguistic collapse": the classes of a language model are its
        next tokens.

        Args:
            tokenizer: of transformers.
            context: the most tokens before the place that are kept.
            min_count: rarer next tokens are no class, with a note: one example has no variance.
            max_length: as for ``tokens``.

        Raises:
            ValueError: a context below 1, a ``max_length`` that leaves no place for a token of the
                text, or fewer than two classes that are frequent enough.

        Examples:
            >>> about = About("letters", "all", ("x",))
            >>> texts = LabelledTexts(["a b c", "a b d"], torch.tensor([0, 0]), about)
            >>> class Letters:
            ...     model_max_length, pad_token_id = 10, 0
            ...     def __call__(self, texts, **_):
            ...         return {"input_ids": [[ord(c) for c in text.split()] for text in texts]}
            ...     def convert_ids_to_tokens(self, ids):
            ...         return [chr(i) for i in ids]
            >>> data = texts.next_tokens(Letters(), context=4, min_count=1)
            >>> data.classes, len(data)
            (['b', 'c', 'd'], 4)
        """
        if context < 1:
            raise ValueError(f"context: expected at least 1 token, got {context}; do context=32")
        encoded, notes = encode(tokenizer, self.texts, max_length)
        places = [place for row in encoded for place in _places(row, context)]
        order = _frequent([token for _, token in places], min_count)
        frequent = set(order)
        classes = torch.tensor(order)
        kept = [(tokens, token) for tokens, token in places if token in frequent]
        if dropped := len(places) - len(kept):
            notes += (
                f"next tokens: {dropped} of {len(places)} left out, which come fewer than "
                f"{min_count} times",
            )
        names = distinct_names(tokenizer.convert_ids_to_tokens(order), order)
        return LabelledTokens(
            [{"input_ids": tokens} for tokens, _ in kept],
            torch.searchsorted(classes, torch.tensor([token for _, token in kept])),
            replace(self.about, classes=names),
            padding=padding_of(tokenizer),
            notes=notes,
            class_outputs=classes,
        )


def _places(row: Row, context: int) -> list[tuple[Sequence[int], int]]:
    """Every place behind the first token: the tokens before it, and the token there."""
    ids = row["input_ids"]
    return [(ids[max(0, t - context) : t], ids[t]) for t in range(1, len(ids))]


def _frequent(tokens: Sequence[int], min_count: int) -> list[int]:
    """The tokens that occur at least ``min_count`` times, in ascending order."""
    frequent = sorted(token for token, n in Counter(tokens).items() if n >= min_count)
    if len(frequent) < 2:
        raise ValueError(
            f"min_count: expected at least two tokens that come next {min_count} times, got "
            f"{len(frequent)}; "
            f"do min_count=1, or more texts"
        )
    return frequent
