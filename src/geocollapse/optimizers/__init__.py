"""Optimizers whose step size follows from the loss: no rate to tune.

The files, in the order they build on each other: groups (the gradients of parameter groups, checked
and applied), corridor (the corridor learning rate), dal (drift-adjusted learning).
"""

from geocollapse.optimizers.corridor import Corridor as Corridor
from geocollapse.optimizers.corridor import NonFiniteGradientError as NonFiniteGradientError
from geocollapse.optimizers.dal import DAL as DAL
