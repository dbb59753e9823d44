"""What a detector file tells of its fit: the features, and a digest of each example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from geocollapse.cli.ood_data import Found, Source, as_text, differences

if TYPE_CHECKING:
    from geocollapse.estimate import Json

_AGAIN = "do fit one with --save detector.safetensors"


@dataclass(frozen=True, eq=False)
class FittedOn:
    """The features and examples that a detector was fitted on.

    Attributes:
        source: of the features.
        n_features: their width.
        data: name and split of the data.
        holds: what the digests are of, ``inputs`` of a model or ``features`` of a file.
        examples: the digest of each example that was fitted.
        preparation: how inputs became those of the model, in words.
    """

    source: Source
    n_features: int
    data: str
    holds: str
    examples: frozenset[str]
    preparation: Mapping[str, str]

    @classmethod
    def of(cls, fitted: Found) -> Self:
        """The record of a fit on these data."""
        return cls(
            source=fitted.source,
            n_features=fitted.features.shape[1],
            data=fitted.label,
            holds=fitted.holds,
            examples=frozenset(fitted.digests()),
            preparation={name: as_text(value) for name, value in fitted.preparation.items()},
        )

    @classmethod
    def parsed(cls, saved: Mapping[str, Json], path: Path) -> Self:
        """The record that a file holds.

        Raises:
            ValueError: a file without one, of an older version or of ``save_network``.
        """
        examples = saved.get("examples")
        preparation = saved.get("preparation")
        width = saved.get("n_features")
        if (
            not isinstance(examples, list)
            or not isinstance(preparation, Mapping)
            or not isinstance(width, int)
        ):
            raise ValueError(
                f"--detector: expected a file that tells the examples of its fit, which must not "
                f"be scored as held out, got {path.name} without them, of an older geocollapse or "
                f"of save_network; {_AGAIN}"
            )
        return cls(
            source=Source(*(_text(saved, name) for name in ("model", "digest", "layer", "pool"))),
            n_features=width,
            data=_text(saved, "data") or "other data",
            holds=_text(saved, "holds") or "inputs",
            examples=frozenset(map(str, examples)),
            preparation={name: str(value) for name, value in preparation.items()},
        )

    def to_json(self) -> dict[str, Json]:
        """The record as a file holds it."""
        return {
            **vars(self.source),
            "n_features": self.n_features,
            "data": self.data,
            "holds": self.holds,
            "examples": sorted(self.examples),
            "preparation": dict(self.preparation),
        }

    def check(self, data: Found, path: Path) -> None:
        """Refuse features of another width, model, layer or pooling.

        Raises:
            ValueError: names what differs.
        """
        width = data.features.shape[1]
        if self.n_features != width:
            raise ValueError(
                f"--detector: expected a detector of {width} features, those of "
                f"{data.layer or 'the output'!r}, got {path.name} of {self.n_features}; do take "
                f"the layer {self.source.layer!r} of {self.source.model}"
            )
        differing = self.source.difference(data.source)
        if differing:
            raise ValueError(
                f"--detector: expected a detector of the features that are scored, got {path.name} "
                f"of {differing}; {_AGAIN}"
            )

    def unseen(self, data: Found, path: Path) -> tuple[Found, tuple[str, ...]]:
        """The examples that were not fitted, and notes on how they were told from the others.

        Raises:
            ValueError: fewer than two are left.
        """
        import torch

        n = len(data.features)
        everything = f"all {n:,} examples of {data.label} are scored"
        unknown = "the examples of its fit cannot be recognised, and"
        if data.holds != self.holds:
            note = f"{path.name} was fitted on {self.holds}, {data.label} has {data.holds}"
            return data, (f"{note}: {unknown} {everything}",)
        notes = self._notes(data, path)
        digests = data.digests()
        rows = [row for row, digest in enumerate(digests) if digest not in self.examples]
        if len(rows) < 2:
            raise ValueError(
                f"--held-out: expected data that the detector was not fitted on, got {data.label}, "
                f"on {'all' if not rows else 'all but one'} of which {path.name} was fitted; do "
                f"--held-out DATA"
            )
        if len(rows) == n:
            note = f"{path.name} was fitted on other examples, of {self.data}: {everything}"
            return data, (*notes, note)
        note = f"{path.name} was fitted on {n - len(rows):,} of {n:,} examples of {data.label}"
        left = data.rows(torch.tensor(rows))
        return left, (*notes, f"{note}: the other {len(rows):,} are scored")

    def _notes(self, data: Found, path: Path) -> tuple[str, ...]:
        """A note on data that were prepared otherwise than those of the fit."""
        differing = differences(data.preparation, self.preparation)
        if not differing:
            return ()
        return (
            f"{data.label} was prepared otherwise than the data of {path.name} ({differing}): "
            f"scores may tell that alone, and examples of the fit may not be recognised",
        )


def _text(saved: Mapping[str, Json], name: str) -> str | None:
    found = saved.get(name)
    return found if isinstance(found, str) else None
