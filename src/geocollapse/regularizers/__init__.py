"""Differentiable penalties on the training loss."""

from geocollapse.regularizers.complexity import (
    GeometricComplexityPenalty as GeometricComplexityPenalty,
)
from geocollapse.regularizers.complexity import Method as Method
