"""Figures as data, drawn by matplotlib for paper and by plotly for the page.

The files: chart (a figure as data), labels (names and units), learning_curve, detection
(scores of a detector, reliability), paper (PNG and PDF), page.
"""

from geocollapse.charts.chart import Chart as Chart
from geocollapse.charts.chart import Panel as Panel
from geocollapse.charts.chart import Series as Series
from geocollapse.charts.detection import reliability_chart as reliability_chart
from geocollapse.charts.detection import score_chart as score_chart
from geocollapse.charts.labels import axis_label as axis_label
from geocollapse.charts.learning_curve import learning_curve_chart as learning_curve_chart
from geocollapse.charts.page import plotly_panels as plotly_panels
from geocollapse.charts.paper import save as save
from geocollapse.charts.paper import save_as as save_as
