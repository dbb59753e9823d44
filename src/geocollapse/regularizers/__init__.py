"""Differentiable penalties on the training loss.

The files, in the order they build on each other: call (checks of settings and calls), penalty
(weight and steps, of every penalty), known (models that were checked), pieces (a batch in pieces,
and outputs joined again), complexity/ (the geometric complexity penalty), gradients (of a loss,
with their graph), gradient_norm (their norm as a penalty), games (terms that cancel the drift of
two players), weights (L2 and spectral norms).
"""

from geocollapse.regularizers.complexity import (
    GeometricComplexityPenalty as GeometricComplexityPenalty,
)
from geocollapse.regularizers.complexity import Method as Method
from geocollapse.regularizers.complexity import checkpoint_context as checkpoint_context
from geocollapse.regularizers.games import DriftCancellation as DriftCancellation
from geocollapse.regularizers.gradient_norm import GradientNorm as GradientNorm
from geocollapse.regularizers.weights import L2Penalty as L2Penalty
from geocollapse.regularizers.weights import SpectralNormPenalty as SpectralNormPenalty
from geocollapse.regularizers.weights import half_squares as half_squares
from geocollapse.regularizers.weights import spectral_norms as spectral_norms
