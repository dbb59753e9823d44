"""How training moves: what a step of gradient descent does beside following the gradient.

The files, in the order they build on each other: trees (vectors in parameter space), products
(Hessian-vector products), losses (a loss as a function of the parameters),
flows (of vector fields), eigenvalues (of the Hessian).
"""

from geocollapse.dynamics.eigenvalues import Eigenvalues as Eigenvalues
from geocollapse.dynamics.eigenvalues import sharpness as sharpness
from geocollapse.dynamics.flows import flow as flow
from geocollapse.dynamics.flows import modified_flow as modified_flow
from geocollapse.dynamics.losses import BatchNorm as BatchNorm
from geocollapse.dynamics.losses import Landscape as Landscape
from geocollapse.dynamics.losses import Loss as Loss
from geocollapse.dynamics.losses import gradient as gradient
from geocollapse.dynamics.losses import hessian_vector_product as hessian_vector_product
from geocollapse.dynamics.losses import landscape as landscape
from geocollapse.dynamics.losses import landscapes as landscapes
from geocollapse.dynamics.products import Method as Method
from geocollapse.dynamics.trees import Field as Field
from geocollapse.dynamics.trees import Tree as Tree
