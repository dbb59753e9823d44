"""Geometric complexity of a map over a data set, and of two maps side by side.

The files, in the order they build on each other: stopping (when to stop probing), schedule (which
examples are probed, in what order, how often), means (estimates from squared norms), readings
(norms gathered from the batches), setup (model, layers and data, checked once), probing (the loop
over batches), dataset (``geometric_complexity``), comparison (``compare_complexity``).
"""

from geocollapse.complexity.comparison import ComplexityComparison as ComplexityComparison
from geocollapse.complexity.comparison import compare_complexity as compare_complexity
from geocollapse.complexity.dataset import geometric_complexity as geometric_complexity
