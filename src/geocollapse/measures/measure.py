"""One measure: what it is called, its unit, what it is invariant to, when it misleads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher"]
Invariance = Literal["translation", "rotation", "feature scale", "input scale"]
Statistics = Literal["moments", "scatter"]

EVERY_CHANGE: tuple[Invariance, ...] = ("translation", "rotation", "feature scale", "input scale")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of a layer.

    Attributes:
        name: its JSON key, dotted where it lies in an object: ``label_free.rankme``.
        label: its name in a table; under that of another measure it need not repeat it.
        under: name of the measure that the label is indented under.
        title: its name where it stands alone, as on an axis; empty: the label.
        short: its name in a sentence or a column.
        symbol: its name beside others of its kind; empty: ``short`` in a column, else the label.
        unit: in terms of the feature unit and the input unit.
        better: the direction that its authors prefer; None where there is none.
        invariant_to: changes of the features, and of the input scale, that leave it as it is.
        read_as: how to read the value, in a table; ``{...}`` is filled in by the table.
        caution: when it misleads.
        of_classifier: it is about the model's own classifier, so says nothing of other classes.
        streamed: class statistics give it: counts, means and variances (``moments``), or with the
            pooled ``scatter``; None where kept features are needed.
    """

    name: str
    label: str
    short: str
    unit: str = "no unit"
    better: Direction | None = None
    invariant_to: tuple[Invariance, ...] = EVERY_CHANGE
    read_as: str
    caution: str
    under: str = ""
    title: str = ""
    symbol: str = ""
    of_classifier: bool = False
    streamed: Statistics | None = None

    @property
    def full_name(self) -> str:
        """The name where the measure stands alone."""
        return self.title or self.label

    @property
    def heading(self) -> str:
        """The name as the head of a narrow column."""
        return self.symbol or self.short

    @property
    def legend(self) -> str:
        """The name in a legend."""
        return self.symbol or self.label
