"""How training moves: what a step of gradient descent does beside following the gradient.

The files, in the order they build on each other: trees (vectors in parameter space), products
(Hessian-vector products), losses (a loss as a function of the parameters), flows (of vector
fields), eigenvalues (of the Hessian), corridor (how straight descent is), stability (along each
eigenvector), principal (the principal flow), forgetting and multitask (several tasks), implicit
(the bias of gradient descent and of mini-batches), turns and games (two players), monitors (of a
training loop).
"""

from geocollapse.dynamics.corridor import CorridorDiagnostics as CorridorDiagnostics
from geocollapse.dynamics.corridor import corridor_diagnostics as corridor_diagnostics
from geocollapse.dynamics.eigenvalues import Eigenvalues as Eigenvalues
from geocollapse.dynamics.eigenvalues import sharpness as sharpness
from geocollapse.dynamics.flows import flow as flow
from geocollapse.dynamics.flows import modified_flow as modified_flow
from geocollapse.dynamics.forgetting import Crossing as Crossing
from geocollapse.dynamics.forgetting import Forgetting as Forgetting
from geocollapse.dynamics.games import DriftTerms as DriftTerms
from geocollapse.dynamics.games import Game as Game
from geocollapse.dynamics.games import GameLoss as GameLoss
from geocollapse.dynamics.games import game as game
from geocollapse.dynamics.implicit import ImplicitBias as ImplicitBias
from geocollapse.dynamics.implicit import implicit_bias as implicit_bias
from geocollapse.dynamics.implicit import implicit_field as implicit_field
from geocollapse.dynamics.implicit import implicit_flow as implicit_flow
from geocollapse.dynamics.losses import BatchNorm as BatchNorm
from geocollapse.dynamics.losses import Landscape as Landscape
from geocollapse.dynamics.losses import Loss as Loss
from geocollapse.dynamics.losses import NonFiniteError as NonFiniteError
from geocollapse.dynamics.losses import gradient as gradient
from geocollapse.dynamics.losses import hessian_vector_product as hessian_vector_product
from geocollapse.dynamics.losses import landscape as landscape
from geocollapse.dynamics.losses import landscapes as landscapes
from geocollapse.dynamics.monitors import CorridorMonitor as CorridorMonitor
from geocollapse.dynamics.monitors import CorridorRecord as CorridorRecord
from geocollapse.dynamics.monitors import SharpnessMonitor as SharpnessMonitor
from geocollapse.dynamics.monitors import SharpnessRecord as SharpnessRecord
from geocollapse.dynamics.multitask import Alignments as Alignments
from geocollapse.dynamics.multitask import LieBracket as LieBracket
from geocollapse.dynamics.multitask import MultitaskBias as MultitaskBias
from geocollapse.dynamics.multitask import OrderEffect as OrderEffect
from geocollapse.dynamics.multitask import crossing_of as crossing_of
from geocollapse.dynamics.multitask import lie_bracket as lie_bracket
from geocollapse.dynamics.multitask import multitask_bias as multitask_bias
from geocollapse.dynamics.multitask import order_effect as order_effect
from geocollapse.dynamics.principal import PrincipalFlow as PrincipalFlow
from geocollapse.dynamics.principal import principal_field as principal_field
from geocollapse.dynamics.principal import principal_flow as principal_flow
from geocollapse.dynamics.products import Expansion as Expansion
from geocollapse.dynamics.products import Method as Method
from geocollapse.dynamics.stability import Behaviour as Behaviour
from geocollapse.dynamics.stability import Direction as Direction
from geocollapse.dynamics.stability import stability as stability
from geocollapse.dynamics.trees import Field as Field
from geocollapse.dynamics.trees import Tree as Tree
from geocollapse.dynamics.turns import Convention as Convention
from geocollapse.dynamics.turns import DriftCoefficients as DriftCoefficients
from geocollapse.dynamics.turns import PlayOrder as PlayOrder
from geocollapse.dynamics.turns import Turn as Turn
