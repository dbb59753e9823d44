"""Panels with a point for each record of training, over columns that differ in one part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geocollapse.charts.chart import Panel
from geocollapse.charts.labels import setting_label
from geocollapse.papers.claims import PanelColumns
from geocollapse.reports.panels import scatter

if TYPE_CHECKING:
    import pandas as pd


def record_points(
    runs: pd.DataFrame, history: pd.DataFrame, drawn: PanelColumns
) -> Iterator[Panel]:
    """y against x of every record: a series or, where they are apart, a panel for each match."""
    groups = runs[["run_id", "converged"]].assign(
        label=runs["setting"].map(setting_label), mark=runs["position"]
    )
    records = history.merge(groups, on="run_id")
    if not drawn.is_apart:
        yield from scatter(_side_by_side(records, drawn), drawn.x, drawn.y)
        return
    for part in matches(drawn.y, history):
        yield from scatter(records, drawn.x.replace("*", part), drawn.y.replace("*", part))


def matches(pattern: str, table: pd.DataFrame) -> list[str]:
    """The texts that `*` in a pattern stands for in the columns of a table, numbers in order.

    Examples:
        >>> import pandas as pd
        >>> matches("a.*.b", pd.DataFrame(columns=["a.16.b", "a.4.b", "a.4.c"]))
        ['4', '16']
    """
    before, _, after = pattern.partition("*")
    shape = re.compile(f"{re.escape(before)}([^.]+){re.escape(after)}")
    found = [match.group(1) for name in table.columns if (match := shape.fullmatch(str(name)))]
    return sorted(found, key=lambda part: (len(part), part))


def columns_of(pattern: str, table: pd.DataFrame) -> tuple[str, ...]:
    """The columns that a pattern stands for; a name without `*` stands for itself."""
    if "*" not in pattern:
        return (pattern,)
    return tuple(pattern.replace("*", part) for part in matches(pattern, table))


def with_equality(panel: Panel) -> Panel:
    """The panel with a grey line where y equals x, as long as its points."""
    x = np.concatenate([series.x for series in panel.series])
    ends = np.array([x.min(), x.max()])
    return replace(panel, curve=(ends, ends, "measured = predicted"))


def _side_by_side(records: pd.DataFrame, drawn: PanelColumns) -> pd.DataFrame:
    """The records once for each match, with its columns under the names of the patterns."""
    import pandas as pd

    series = []
    for place, part in enumerate(matches(drawn.y, records)):
        x = drawn.x.replace("*", part)
        if x in records:
            own = records[["converged"]].assign(label=f"m = {part}", mark=place)
            own[drawn.x] = records[x]
            own[drawn.y] = records[drawn.y.replace("*", part)]
            series.append(own)
    return pd.concat(series, ignore_index=True) if series else pd.DataFrame()
