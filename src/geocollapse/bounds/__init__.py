"""Bounds on errors: of the nearest-mean classifier, and by the margins of any classifier.

The files: moments and nearest_mean (from moments of the decision statistic), margin (margins, ramp
loss, geometric complexity over the squared margin), transfer_inequality (from the gradient in the
parameters to that in the inputs).
"""

from geocollapse.bounds.margin import MarginQuantile as MarginQuantile
from geocollapse.bounds.margin import empirical_margin_risk as empirical_margin_risk
from geocollapse.bounds.margin import margin_normalised as margin_normalised
from geocollapse.bounds.margin import margins as margins
from geocollapse.bounds.margin import ramp_loss as ramp_loss
from geocollapse.bounds.moments import DecisionMoments as DecisionMoments
from geocollapse.bounds.nearest_mean import MAX_MOMENT_CLASSES as MAX_MOMENT_CLASSES
from geocollapse.bounds.nearest_mean import BoundDict as BoundDict
from geocollapse.bounds.nearest_mean import NearestMeanBound as NearestMeanBound
from geocollapse.bounds.nearest_mean import bounds_of as bounds_of
from geocollapse.bounds.nearest_mean import nearest_mean_bound as nearest_mean_bound
from geocollapse.bounds.nearest_mean import nearest_mean_bounds as nearest_mean_bounds
from geocollapse.bounds.transfer_inequality import TransferInequality as TransferInequality
from geocollapse.bounds.transfer_inequality import transfer_inequality as transfer_inequality
