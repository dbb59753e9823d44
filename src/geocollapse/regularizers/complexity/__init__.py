"""Geometric complexity as a differentiable penalty on the training loss.

The files, in the order they build on each other: methods (the squared norms and their graph),
derivatives (a check that these are right), checks (of settings and of a model's output), map (from
inputs to the layer, found and checked once a model), reading (geometric complexity and collapse of
a step), penalty.
"""

from geocollapse.modules.second_derivatives import checkpoint_context as checkpoint_context
from geocollapse.regularizers.complexity.methods import Method as Method
from geocollapse.regularizers.complexity.penalty import (
    GeometricComplexityPenalty as GeometricComplexityPenalty,
)
