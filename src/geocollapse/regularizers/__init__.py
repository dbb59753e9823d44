"""Differentiable penalties on the training loss.

The files, in the order they build on each other: call (checks of a call), penalty (weight and
steps, of every penalty), pieces (a batch in pieces, and outputs joined again), complexity/ (the
geometric complexity penalty).
"""

from geocollapse.regularizers.complexity import (
    GeometricComplexityPenalty as GeometricComplexityPenalty,
)
from geocollapse.regularizers.complexity import Method as Method
from geocollapse.regularizers.complexity import checkpoint_context as checkpoint_context
