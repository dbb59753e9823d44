"""Squared Frobenius norms of the Jacobians of a batch, exact or estimated by random probes.

The files, in the order they build on each other: probes (random vectors that belong to an example),
estimators (their names), norms (what is measured), reverse (vector-Jacobian products), forward
(Jacobian-vector products), tangents (Jacobian-vector products with a graph behind them), masked
(sampled entries), memory (how many examples fit), checks (values that are no norms), plan (how a
batch is probed).
"""

from geocollapse.jacobian.estimators import Estimator as Estimator
from geocollapse.jacobian.estimators import check_estimator as check_estimator
from geocollapse.jacobian.forward import push_forward as push_forward
from geocollapse.jacobian.memory import examples_that_fit as examples_that_fit
from geocollapse.jacobian.norms import SquaredNorms as SquaredNorms
from geocollapse.jacobian.norms import mean_of_probes as mean_of_probes
from geocollapse.jacobian.plan import ProbedBatch as ProbedBatch
from geocollapse.jacobian.plan import ProbePlan as ProbePlan
from geocollapse.jacobian.plan import squared_jacobian_norms as squared_jacobian_norms
from geocollapse.jacobian.reverse import in_right_order as in_right_order
from geocollapse.jacobian.tangents import differentiable_push_forward as differentiable_push_forward
