"""One measure: what it is called, its unit, what it is invariant to, when it misleads."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Direction = Literal["lower", "higher"]
Invariance = Literal["translation", "rotation", "feature scale", "input scale", "input size"]
Statistics = Literal["moments", "scatter"]
Needs = Literal["labels", "head", "nothing"]

EVERY_CHANGE: tuple[Invariance, ...] = (
    "translation",
    "rotation",
    "feature scale",
    "input scale",
    "input size",
)


def incomparable(differing: Mapping[str, str], invariant_to: Collection[str] = EVERY_CHANGE) -> str:
    """Reasons why the values of two models cannot be compared; empty if they can.

    Args:
        differing: reasons by the change that they are: those of ``Invariance``, or others, to which
            no measure is invariant.
        invariant_to: changes that leave the measure as it is.
    """
    return "; ".join(differing[change] for change in sorted(set(differing) - set(invariant_to)))


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One measure of a layer.

    Attributes:
        name: JSON key, dotted if the value lies in a nested object: ``label_free.rankme``.
        label: name in the table of one layer, where it may continue that of ``under``.
        short: name in a sentence or a column.
        unit: in terms of the feature unit and the input unit.
        better: the direction that its authors prefer; None if they prefer neither.
        invariant_to: changes of the features or the inputs that do not change the value. With
            another input size, the model sees the same picture in more or fewer pixels.
        read_as: how to read the value, in a few words; the table fills in ``{...}``.
        caution: when it misleads, in one line.
        under: name of the measure that the table indents this one under.
        title: name where it stands alone, as on an axis; by default the label.
        symbol: name beside the other measures of neural collapse; by default ``short`` in a
            column and the label in a legend.
        of_classifier: True if it describes the model's own classifier, and so says nothing about
            classes that the model was not trained on.
        streamed: class statistics that suffice to compute it: ``moments`` (counts, means and
            variances) or ``scatter`` (also the pooled scatter); None if it needs kept features.
        needs: what it takes of the target beside features, as a score of transferability: its
            ``labels``, also the outputs of a source ``head``, or ``nothing``.
        source: author and year, where it is a score of transferability.
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
    needs: Needs = "labels"
    source: str = ""

    def oriented(self, value: float) -> float:
        """``value`` with the sign that makes more of it better; NaN if neither direction is."""
        if self.better is None:
            return math.nan
        return value if self.better == "higher" else -value

    @property
    def full_name(self) -> str:
        """Name where the measure stands alone."""
        return self.title or self.label

    @property
    def heading(self) -> str:
        """Name at the head of a narrow column."""
        return self.symbol or self.short

    @property
    def legend(self) -> str:
        """Name in a legend."""
        return self.symbol or self.label
