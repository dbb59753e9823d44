"""Geometric complexity as a differentiable penalty on the training loss.

The files, in the order they build on each other: methods (the squared norms and their graph),
derivatives (whether they are right), checks (what is asked of settings, a call and a model),
reading (what a step tells), penalty.
"""

from geocollapse.regularizers.complexity.methods import Method as Method
from geocollapse.regularizers.complexity.penalty import (
    GeometricComplexityPenalty as GeometricComplexityPenalty,
)
