"""Neural and geometric collapse: streaming class statistics, CDNV, NC1 to NC4, geometric collapse.

The files, in the order they build on each other: statistics (streaming, mergeable), labelled (kept
features), projections (one pass over the residuals for several measures), distances, cdnv, sampled
(means over some pairs), directional, variability (NC1), simplex (NC2), duality (NC3), decisions
(NC4), many_classes (what to estimate), neural_collapse (all of them), geometric (of the data set),
distribution, example_terms (what each example adds), linearised and linearised_nc1 (the measures to
first order in the examples).
"""

from geocollapse.collapse.cdnv import ClassPair as ClassPair
from geocollapse.collapse.cdnv import cdnv as cdnv
from geocollapse.collapse.cdnv import largest_pairs as largest_pairs
from geocollapse.collapse.cdnv import mean_cdnv as mean_cdnv
from geocollapse.collapse.cdnv import pairwise_cdnv as pairwise_cdnv
from geocollapse.collapse.directional import directional_cdnv as directional_cdnv
from geocollapse.collapse.directional import pairwise_directional_cdnv as pairwise_directional_cdnv
from geocollapse.collapse.distances import distances_squared as distances_squared
from geocollapse.collapse.distances import pair_weights as pair_weights
from geocollapse.collapse.distribution import cdnv_estimate as cdnv_estimate
from geocollapse.collapse.distribution import (
    geometric_collapse_of_distribution as geometric_collapse_of_distribution,
)
from geocollapse.collapse.geometric import PoincareRatios as PoincareRatios
from geocollapse.collapse.geometric import geometric_collapse as geometric_collapse
from geocollapse.collapse.geometric import poincare_ratios as poincare_ratios
from geocollapse.collapse.labelled import LabelledFeatures as LabelledFeatures
from geocollapse.collapse.neural_collapse import NeuralCollapse as NeuralCollapse
from geocollapse.collapse.neural_collapse import measure_collapse as measure_collapse
from geocollapse.collapse.neural_collapse import neural_collapse as neural_collapse
from geocollapse.collapse.neural_collapse import streamed_measures as streamed_measures
from geocollapse.collapse.sampled import sampled_cdnv as sampled_cdnv
from geocollapse.collapse.statistics import ClassStatistics as ClassStatistics
from geocollapse.collapse.variability import nc1 as nc1
from geocollapse.collapse.variability import nc1_pooled as nc1_pooled
