"""The figures of a sweep: described once from its tables, drawn by matplotlib for paper and by
plotly for the page.
"""

from __future__ import annotations

from geocollapse.figures.chart import Chart as Chart
from geocollapse.figures.chart import Panel as Panel
from geocollapse.figures.chart import Series as Series
from geocollapse.figures.content import charts as charts
from geocollapse.figures.labels import axis_label as axis_label
from geocollapse.figures.page import plotly_panels as plotly_panels
from geocollapse.figures.paper import save as save

__all__ = ["Chart", "Panel", "Series", "axis_label", "charts", "plotly_panels", "save"]
