"""Token sequences with labels, and the calls of a tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from geocollapse.data.fingerprint import Fingerprint
from geocollapse.data.labelled import About, Classes, Described
from geocollapse.data.selection import parse_classes

TOKEN_TYPES = "token_type_ids"
_UNBOUNDED = 10**6  # a tokenizer without a longest input reports a number above this

Row = Mapping[str, Sequence[int]]  # of one text: ``input_ids``, and what else belongs to its tokens


class Tokenizer(Protocol):
    """A tokenizer of transformers, or an object that is called like one.

    Read where they exist: ``model_max_length``, ``pad_token_id``, ``num_special_tokens_to_add``.
    """

    def __call__(
        self,
        text: list[str],
        /,
        *,
        truncation: bool = False,
        max_length: int | None = None,
        verbose: bool = True,
    ) -> Mapping[str, Sequence[Sequence[int]]]: ...

    def convert_ids_to_tokens(self, ids: list[int], /) -> Sequence[str]: ...


class LabelledTokens(Described, Dataset[tuple[Row, int]]):
    """Token sequences of different lengths with labels; batches are padded right, with a mask.

    Args:
        encoded: one mapping an example: ``input_ids``, and what else the model takes for each
            token.
        labels: (n,) int64, 0..C-1.
        about: names of the classes and the split.
        padding: the token that fills up ``input_ids``; everything else is filled up with 0.
        notes: what a reader of the results must know about the tokens.
        class_outputs: (C,) the output of a language model that stands for each class, its token;
            None for other classes.
    """

    def __init__(
        self,
        encoded: Sequence[Row],
        labels: Tensor,
        about: About,
        *,
        padding: int = 0,
        notes: tuple[str, ...] = (),
        class_outputs: Tensor | None = None,
    ) -> None:
        self.encoded = encoded
        self.targets = labels
        self.about = replace(about, notes=(*about.notes, *notes))
        self.padding = padding
        self.class_outputs = class_outputs

    @property
    def lengths(self) -> Tensor:
        """(n,) tokens of each example, by which a measurement groups its batches."""
        return torch.tensor([len(row["input_ids"]) for row in self.encoded])

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, position: int) -> tuple[Row, int]:
        return self.encoded[position], int(self.targets[position])

    def select(
        self, *, classes: Classes = None, subset: int | None = None, seed: int = 0
    ) -> LabelledTokens:
        """Some classes, renumbered 0..k-1 in the order given, and a balanced subset of them."""
        rows, labels, about = self.chosen(classes, subset, seed)
        outputs = self.class_outputs
        if outputs is not None and classes is not None:
            outputs = outputs[torch.tensor(parse_classes(classes, self.classes))]
        return LabelledTokens(
            [self.encoded[row] for row in rows.tolist()],
            labels,
            about,
            padding=self.padding,
            class_outputs=outputs,
        )

    def collate_fn(self, examples: Sequence[tuple[Row, int]]) -> dict[str, Tensor]:
        """A batch with ``labels``, padded to its longest example.

        ``input_ids`` and ``attention_mask`` are (n, longest), and so is what else the tokenizer
        gives.
        """
        rows = [row for row, _ in examples]
        batch = {name: self._padded([row[name] for row in rows], name) for name in rows[0]}
        if "attention_mask" not in batch:
            lengths = torch.tensor([len(row["input_ids"]) for row in rows])
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return batch | {"labels": torch.tensor([label for _, label in examples])}

    def _add_content(self, fingerprint: Fingerprint) -> None:
        fingerprint.add_value(self.padding)
        if self.class_outputs is not None:
            fingerprint.add_tensor(self.class_outputs)
        for row in range(len(self.encoded)):
            self._add_example(fingerprint, row)

    def _add_example(self, fingerprint: Fingerprint, row: int) -> None:
        for name, tokens in sorted(self.encoded[row].items()):
            fingerprint.add_value(name)
            fingerprint.add_tensor(torch.tensor(tokens))

    def _padded(self, rows: Sequence[Sequence[int]], name: str) -> Tensor:
        fill = self.padding if name == "input_ids" else 0
        return pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=fill
        )


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int | None
) -> tuple[list[Row], tuple[str, ...]]:
    """Tokens of each text, and a note on texts that were cut.

    Raises:
        ValueError: a ``max_length`` that leaves no place for a token of the text.
    """
    limit = _limit(tokenizer, max_length)
    whole = tokenizer(list(texts), verbose=False)
    n_cut = sum(limit is not None and len(ids) > limit for ids in whole["input_ids"])
    if n_cut:
        whole = tokenizer(list(texts), truncation=True, max_length=limit)
    rows: list[Row] = [
        dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)
    ]
    if not n_cut:
        return rows, ()
    return rows, (f"tokens: {n_cut} of {len(texts)} texts were cut after {limit} tokens",)


def without_token_types(rows: list[Row]) -> tuple[list[Row], tuple[str, ...]]:
    """The rows without token types, and a note if there were any."""
    if not any(TOKEN_TYPES in row for row in rows):
        return rows, ()
    kept: list[Row] = [
        {name: values for name, values in row.items() if name != TOKEN_TYPES} for row in rows
    ]
    note = (
        f"tokens: {TOKEN_TYPES} of the tokenizer were left out, as for a model without token types"
    )
    return kept, (note,)


def padding_of(tokenizer: Tokenizer) -> int:
    """The padding token; without one any token will do, since the mask hides it."""
    padding = getattr(tokenizer, "pad_token_id", None)
    return 0 if padding is None else int(padding)


def distinct_names(names: Sequence[str], ids: Sequence[int]) -> tuple[str, ...]:
    """Names of classes, with the token's number where two are written alike."""
    counts = Counter(names)
    return tuple(
        name if counts[name] == 1 else f"{name} ({number})"
        for name, number in zip(names, ids, strict=True)
    )


def _limit(tokenizer: Tokenizer, max_length: int | None) -> int | None:
    """The most tokens of a text: as asked, else the tokenizer's own limit, if it has one."""
    if max_length is None:
        own: int | None = getattr(tokenizer, "model_max_length", None)
        return own if own is not None and own < _UNBOUNDED else None
    count = getattr(tokenizer, "num_special_tokens_to_add", None)
    n_special = 0 if count is None else int(count())
    if max_length <= n_special:
        beside = f", of which the tokenizer adds {n_special}" if n_special else ""
        raise ValueError(
            f"max_length: expected at least {n_special + 1}{beside}, got {max_length}; do "
            f"max_length=128"
        )
    return max_length
