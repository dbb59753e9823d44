"""Labelled texts, and the token sequences that a model's tokenizer makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from geocollapse.data.labelled import About, Classes, Described
from geocollapse.data.sources import DataSource

if TYPE_CHECKING:
    import pandas as pd

_TEXT, _LABELS = "text", ("label", "category")  # columns of a .csv file
_TYPES = "token_type_ids"
_UNBOUNDED = 10**6  # a tokenizer that knows no longest input says a number above this


class LabelledTexts(Described, Dataset[tuple[str, int]]):
    """Texts with labels, as they are: every model has a tokenizer of its own.

    Args:
        texts: one string an example.
        labels: (n,) int64, 0..C-1.
        about: names of the classes and the split.
    """

    def __init__(self, texts: Sequence[str], labels: Tensor, about: About) -> None:
        self.texts, self.targets, self.about = list(texts), labels, about

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, position: int) -> tuple[str, int]:
        return self.texts[position], int(self.targets[position])

    def select(
        self, *, classes: Classes = None, subset: int | None = None, seed: int = 0
    ) -> LabelledTexts:
        """Some classes, renumbered 0..k-1 in the order given, and a seeded, class-balanced subset
        of them.
        """
        rows, labels, about = self.chosen(classes, subset, seed)
        return LabelledTexts([self.texts[row] for row in rows.tolist()], labels, about)

    def tokens(
        self, tokenizer: Any, *, max_length: int | None = None, token_types: bool = True
    ) -> LabelledTokens:
        """Every text as its tokens, special tokens included.

        Args:
            tokenizer: of transformers: called with texts, it gives lists of ``input_ids`` and what
                belongs to them.
            max_length: longer texts are cut after so many tokens, with a note; by default the
                tokenizer's own limit.
            token_types: keep the tokenizer's ``token_type_ids``; not for a model without token
                types, such as GPT-2, which would add them to the text as tokens.

        Raises:
            ValueError: a ``max_length`` that leaves no place for a token of the text.
        """
        encoded, notes = _encode(tokenizer, self.texts, max_length)
        if not token_types and any(_TYPES in row for row in encoded):
            encoded = [
                {name: values for name, values in row.items() if name != _TYPES} for row in encoded
            ]
            notes += (
                f"tokens: {_TYPES} of the tokenizer were left out, as for a model without token "
                f"types",
            )
        return LabelledTokens(
            encoded, self.targets, self.about, padding=_padding_of(tokenizer), notes=notes
        )

    def next_tokens(
        self, tokenizer: Any, *, context: int, min_count: int = 2, max_length: int | None = None
    ) -> LabelledTokens:
        """Every place in every text: the tokens before it as an example, the token there as its
        class.

        Source: Wu and Papyan (2024), "Linguistic collapse": the classes of a language model are its
        next tokens.

        Args:
            tokenizer: of transformers.
            context: at most so many tokens before the place are kept.
            min_count: tokens that come next less often are no class, with a note: one example has
                no variance.
            max_length: as for ``tokens``.

        Raises:
            ValueError: a context below 1, a ``max_length`` that leaves no place for a token of the
                text, or fewer than two classes that are frequent enough.

        Examples:
            >>> texts = LabelledTexts(["a b c", "a b d"], torch.tensor([0, 0]), About("letters", "all", ("x",)))
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
        encoded, notes = _encode(tokenizer, self.texts, max_length)
        places = [
            (row["input_ids"][max(0, t - context) : t], token)
            for row in encoded
            for t, token in _next(row)
        ]
        frequent = {
            token: n for token, n in Counter(token for _, token in places).items() if n >= min_count
        }
        if len(frequent) < 2:
            raise ValueError(
                f"min_count: expected at least two tokens that come next {min_count} times, got "
                f"{len(frequent)}; "
                f"do min_count=1, or more texts"
            )
        if dropped := sum(token not in frequent for _, token in places):
            notes += (
                f"next tokens: {dropped} of {len(places)} left out, which come fewer than "
                f"{min_count} times",
            )
        order = sorted(frequent)
        kept = [(tokens, token) for tokens, token in places if token in frequent]
        tokens_of_classes = torch.tensor(order)
        labels = torch.searchsorted(tokens_of_classes, torch.tensor([token for _, token in kept]))
        about = replace(
            self.about, classes=tuple(_distinct(tokenizer.convert_ids_to_tokens(order), order))
        )
        rows = [{"input_ids": tokens} for tokens, _ in kept]
        padding = _padding_of(tokenizer)
        return LabelledTokens(
            rows, labels, about, padding=padding, notes=notes, class_outputs=tokens_of_classes
        )


class LabelledTokens(Described, Dataset[tuple[Mapping[str, Sequence[int]], int]]):
    """Token sequences of different lengths with labels; a batch is padded on the right, with a
    mask.

    Args:
        encoded: one mapping an example: ``input_ids``, and what else the model takes a token at a
            time.
        labels: (n,) int64, 0..C-1.
        about: names of the classes and the split.
        padding: the token that fills up ``input_ids``; everything else is filled up with 0.
        notes: what a reader must know of how they were made.
        class_outputs: (C,) which of a language model's outputs each class is: its token; None for
            other classes.
    """

    def __init__(
        self,
        encoded: Sequence[Mapping[str, Sequence[int]]],
        labels: Tensor,
        about: About,
        *,
        padding: int = 0,
        notes: tuple[str, ...] = (),
        class_outputs: Tensor | None = None,
    ) -> None:
        self.encoded, self.targets, self.about, self.padding, self.notes = (
            encoded,
            labels,
            about,
            padding,
            notes,
        )
        self.class_outputs = class_outputs

    @property
    def lengths(self) -> Tensor:
        """(n,) tokens of each example, by which a measurement groups its batches."""
        return torch.tensor([len(row["input_ids"]) for row in self.encoded])

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, position: int) -> tuple[Mapping[str, Sequence[int]], int]:
        return self.encoded[position], int(self.targets[position])

    def collate_fn(
        self, examples: Sequence[tuple[Mapping[str, Sequence[int]], int]]
    ) -> dict[str, Tensor]:
        """A batch: ``input_ids`` and ``attention_mask`` (n, longest), what else the tokenizer
        gives, ``labels``.
        """
        rows = [row for row, _ in examples]
        batch = {name: self._padded([row[name] for row in rows], name) for name in rows[0]}
        if "attention_mask" not in batch:
            lengths = torch.tensor([len(row["input_ids"]) for row in rows])
            batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        return batch | {"labels": torch.tensor([label for _, label in examples])}

    def _padded(self, rows: Sequence[Sequence[int]], name: str) -> Tensor:
        fill = self.padding if name == "input_ids" else 0
        return pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=fill
        )


def read_texts(path: Path, name: str, split: str) -> LabelledTexts:
    """A .csv file with a header: ``text``, and ``label`` or ``category``; classes in alphabetical
    order.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no readable table, missing columns, or a row without text or label.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"data: expected a .csv file, got {str(path)!r}, which does not exist; do check it"
        )
    table = _table(path)
    label = next((column for column in _LABELS if column in table), None)
    if _TEXT not in table or label is None:
        raise ValueError(
            f"data: expected columns text and label in {path.name}, got "
            f"{', '.join(map(str, table.columns))}; "
            f"do name them so in its first line"
        )
    for column in (_TEXT, label):
        empty = table.index[table[column].str.strip() == ""]
        if len(empty):
            raise ValueError(
                f"data: expected a {column} in each row of {path.name}, got none in row "
                f"{empty[0] + 2}"
            )
    names = sorted(set(table[label]))
    labels = torch.tensor([names.index(value) for value in table[label]], dtype=torch.int64)
    return LabelledTexts(list(table[_TEXT]), labels, About(name, split, tuple(names)))


def _table(path: Path) -> pd.DataFrame:
    """The rows of a .csv file, as they are written."""
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError as error:
        raise ValueError(
            f"data: expected a first line text,label in {path.name}, got an empty file; do write "
            f"one"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"data: expected {path.name} in UTF-8, got byte {error.object[error.start]:#x}; do "
            f"save it as UTF-8"
        ) from error
    except pd.errors.ParserError as error:
        raise _unreadable(
            path, str(error).strip().removeprefix("Error tokenizing data. C error: ")
        ) from error
    if not isinstance(
        table.index, pd.RangeIndex
    ):  # pandas takes what is too much for the names of the rows
        raise _unreadable(path, f"more than {len(table.columns)} fields in each row")
    return table


def _unreadable(path: Path, got: str) -> ValueError:
    return ValueError(
        f"data: expected a table in {path.name}, each row with as many fields as the first line, "
        f"got {got}; "
        f'do write texts with commas or line breaks in "quotes", and a quote inside as ""'
    )


def load_named_texts(source: DataSource, split: str, root: Path, download: bool) -> LabelledTexts:
    """A named set of texts, fetched from its official source where it is missing.

    Raises:
        FileNotFoundError: a missing file that cannot be downloaded.
    """
    file = next(file for file in source.files if Path(file).stem == split)
    if not (root / file).exists():
        _fetch(source, file, root, download)
    return read_texts(root / file, source.name, split)


def _fetch(source: DataSource, file: str, root: Path, download: bool) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    url, sha256 = source.downloads[file]
    try:
        if not download:
            raise OSError("not asked for")
        torch.hub.download_url_to_file(url, str(root / file), hash_prefix=sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"data: expected {file} under {root}, and no download from {url} ({error}); "
            f"do put it there, or --data-root / GEOCOLLAPSE_DATA to where it is"
        ) from error


def _encode(
    tokenizer: Any, texts: Sequence[str], max_length: int | None
) -> tuple[list[dict[str, list[int]]], tuple[str, ...]]:
    """Tokens of each text, and a note on those that were cut."""
    _check_length(tokenizer, max_length)
    own = getattr(tokenizer, "model_max_length", None)
    limit = (
        max_length
        if max_length is not None
        else own
        if own is not None and own < _UNBOUNDED
        else None
    )
    whole = tokenizer(list(texts), verbose=False)
    n_cut = sum(limit is not None and len(ids) > limit for ids in whole["input_ids"])
    if n_cut:
        whole = tokenizer(list(texts), truncation=True, max_length=limit)
    rows = [dict(zip(whole, values, strict=True)) for values in zip(*whole.values(), strict=True)]
    return rows, (
        f"tokens: {n_cut} of {len(texts)} texts were cut after {limit} tokens",
    ) if n_cut else ()


def _check_length(tokenizer: Any, max_length: int | None) -> None:
    """Refuse a limit that leaves no place for a token of the text beside the special ones."""
    count = getattr(tokenizer, "num_special_tokens_to_add", None)
    n_special = 0 if count is None else int(count())
    if max_length is not None and max_length <= n_special:
        beside = f", of which the tokenizer adds {n_special}" if n_special else ""
        raise ValueError(
            f"max_length: expected at least {n_special + 1}{beside}, got {max_length}; do "
            f"max_length=128"
        )


def _padding_of(tokenizer: Any) -> int:
    """The padding token; where there is none any token will do, since the mask hides it."""
    padding = getattr(tokenizer, "pad_token_id", None)
    return 0 if padding is None else int(padding)


def _next(row: Mapping[str, Sequence[int]]) -> Sequence[tuple[int, int]]:
    """Every place behind the first token, and the token there."""
    return list(enumerate(row["input_ids"]))[1:]


def _distinct(names: Sequence[str], ids: Sequence[int]) -> list[str]:
    """Names of classes; where two tokens are written alike, with their number."""
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} ({number})"
        for name, number in zip(names, ids, strict=True)
    ]
