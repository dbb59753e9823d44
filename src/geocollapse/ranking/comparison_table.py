"""A comparison of two models as a table for the terminal."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

from geocollapse.measurement.table import rendered

if TYPE_CHECKING:
    from geocollapse.ranking.comparison import Compared, Comparison


def as_text(comparison: Comparison) -> str:
    """The answer, the table and the notes under it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    first, _ = comparison.labels
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("measure")
    for label in comparison.labels:
        table.add_column(Text(label), justify="right")
    table.add_column("difference", justify="right")
    table.add_column("95 % for examples like these", justify="right")
    table.add_column(Text(f"{first} is"))
    for place, row in enumerate(comparison.rows):
        table.add_row(*map(Text, _cells(row)), end_section=place + 1 == comparison.n_deciding)
    notes = [*_reasons(comparison), *comparison.notes]
    answer = textwrap.fill(comparison.answer, 100)
    return f"{answer}\n\n{_place(comparison)}\n{rendered(table, notes)}"


def _reasons(comparison: Comparison) -> list[str]:
    """Why measures cannot be compared, each reason once."""
    labels: dict[str, list[str]] = {}
    for row in comparison.rows:
        if row.note:
            labels.setdefault(row.note, []).append(row.label)
    if len(labels) == 1 and all(row.note for row in comparison.rows):
        return [f"all measures: {reason}" for reason in labels]
    return [f"{', '.join(names)}: {reason}" for reason, names in labels.items()]


def _place(comparison: Comparison) -> str:
    """Where, and on what, both were measured."""
    a, b = (layer or "the output" for layer in comparison.layers)
    where = a if a == b else f"{a} and {b}"
    split = "" if comparison.split is None else f", {comparison.split}"
    same = ", the same for both" if comparison.is_paired else ""
    return f"{where}: {comparison.n_samples:,} examples{split}{same}"


def _cells(row: Compared) -> tuple[str, ...]:
    values = [f"{value:.4g}" for value in (row.first, row.second)]
    if row.difference is None:
        return (row.label, *values, "-", "-", row.decision if row.note else "-")
    low, high = row.difference.interval()
    interval = "-" if math.isnan(low) else f"{low:.3g} to {high:.3g}"
    return (row.label, *values, f"{row.difference.value:.3g}", interval, row.decision)
