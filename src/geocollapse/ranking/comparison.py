"""The comparison of two models on the same examples, a row a measure."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from typing_extensions import TypedDict

from geocollapse.estimate import Estimate, IntervalDict, finite_or_none
from geocollapse.measures.measure import Direction

Decision = Literal["lower", "higher", "cannot be told apart", "not comparable", "unknown"]


class ComparedDict(TypedDict):
    """One measure of two models.

    Attributes:
        measure: its name.
        label: in words.
        first: of the first model.
        second: of the second model.
        difference: the first less the second, with its paired interval.
        decision: whether the first is `lower` or `higher`, `cannot be told apart`, `not
            comparable`, or `unknown`.
        better: the label of the model that does better by it; null where none does.
        note: why it cannot be compared, or what to mind.
    """

    measure: str
    label: str
    first: float | None
    second: float | None
    difference: IntervalDict | None
    decision: Decision
    better: str | None
    note: str


class ComparisonDict(TypedDict):
    """``compare --json``.

    Attributes:
        schema_version: raised when a key changes its meaning or goes away.
        answer: which model does better, in plain words.
        models: labels of both.
        layers: their layers.
        n_samples: examples that both saw.
        split: the part of the data set.
        measures: a row a measure.
        warnings: what a reader must know.
        provenance: where the numbers come from.
    """

    schema_version: int
    answer: str
    models: tuple[str, str]
    layers: tuple[str, str]
    n_samples: int
    split: str | None
    measures: list[ComparedDict]
    warnings: list[str]
    provenance: dict[str, object]


@dataclass(frozen=True)
class Compared:
    """One measure of two models on the same examples.

    Attributes:
        name: of the measure.
        label: in words.
        short: the same in a sentence.
        first: of the first model.
        second: of the second model.
        difference: the first less the second; None where it has no interval.
        better: the direction that is better; None if neither is.
        note: why it cannot be compared; empty if it can.
    """

    name: str
    label: str
    short: str
    first: float
    second: float
    difference: Estimate | None
    better: Direction | None
    note: str = ""

    @property
    def decision(self) -> Decision:
        """Whether the first model is lower or higher than the second, at 95 %."""
        if self.note:
            return "not comparable"
        if self.difference is None:
            return "unknown"
        low, high = self.difference.interval()
        if math.isnan(low):
            return "unknown"
        if high < 0.0:
            return "lower"
        return "higher" if low > 0.0 else "cannot be told apart"


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Two models on the same examples.

    Attributes:
        labels: of both models.
        layers: where their features were taken.
        n_samples: examples that both saw.
        split: the part of the data set.
        rows: a row a measure; those before ``n_deciding`` are free of scales and decide.
        n_deciding: the number of rows that decide.
        notes: what a reader must know of the comparison.
        warnings: the same, and what must be known of each measurement.
        provenance: versions, device, seed and code revision.
        is_paired: differences are of the same examples.
    """

    labels: tuple[str, str]
    layers: tuple[str, str]
    n_samples: int
    split: str | None
    rows: tuple[Compared, ...]
    n_deciding: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    provenance: Mapping[str, object]
    is_paired: bool = True

    def __getitem__(self, name: str) -> Compared:
        """The row of the measure called ``name``."""
        for row in self.rows:
            if row.name == name:
                return row
        known = ", ".join(row.name for row in self.rows)
        raise KeyError(f"{name!r}: expected one of {known}")

    @property
    def answer(self) -> str:
        """Which model does better by the measures that decide, in plain words."""
        wins: dict[str, list[str]] = {label: [] for label in self.labels}
        for row in self.rows[: self.n_deciding]:
            better = self.better(row)
            if better is not None:
                wins[better].append(row.short)
        first, second = (wins[label] for label in self.labels)
        if not first and not second:
            fault = self._fault
            if fault:
                return f"{self.labels[0]} and {self.labels[1]} cannot be compared: {fault}."
            return (
                f"{self.labels[0]} and {self.labels[1]} cannot be told apart on {self.n_samples:,} "
                f"examples."
            )
        parts = [
            f"{label} does better by {', '.join(names)}" for label, names in wins.items() if names
        ]
        return f"{'; '.join(parts)}."

    @property
    def _fault(self) -> str:
        """Why no measure decides; empty if one does, or could have done."""
        deciding = self.rows[: self.n_deciding]
        if not deciding:
            return "no measure that decides is known of both"
        if any(row.decision != "not comparable" for row in deciding):
            return ""
        return "; ".join(dict.fromkeys(row.note for row in deciding))

    def better(self, row: Compared) -> str | None:
        """The label of the model that does better by a measure; None where none does."""
        if row.better is None or row.decision not in ("lower", "higher"):
            return None
        return self.labels[0] if row.decision == row.better else self.labels[1]

    def to_dict(self) -> ComparisonDict:
        """The strict JSON form."""
        return {
            "schema_version": 1,
            "answer": self.answer,
            "models": self.labels,
            "layers": self.layers,
            "n_samples": self.n_samples,
            "split": self.split,
            "measures": [self._row_dict(row) for row in self.rows],
            "warnings": list(self.warnings),
            "provenance": dict(self.provenance),
        }

    def _row_dict(self, row: Compared) -> ComparedDict:
        return {
            "measure": row.name,
            "label": row.label,
            "first": finite_or_none(row.first),
            "second": finite_or_none(row.second),
            "difference": None if row.difference is None else row.difference.to_interval_dict(),
            "decision": row.decision,
            "better": self.better(row),
            "note": row.note,
        }

    def __str__(self) -> str:
        from geocollapse.ranking.comparison_table import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return f"Comparison of {self.labels[0]} and {self.labels[1]}: {self.answer}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"
