"""Bounds on the error of the nearest-mean classifier, from moments of its decision statistic."""

from geocollapse.bounds.moments import DecisionMoments as DecisionMoments
from geocollapse.bounds.nearest_mean import MAX_MOMENT_CLASSES as MAX_MOMENT_CLASSES
from geocollapse.bounds.nearest_mean import BoundDict as BoundDict
from geocollapse.bounds.nearest_mean import NearestMeanBound as NearestMeanBound
from geocollapse.bounds.nearest_mean import bounds_of as bounds_of
from geocollapse.bounds.nearest_mean import nearest_mean_bound as nearest_mean_bound
from geocollapse.bounds.nearest_mean import nearest_mean_bounds as nearest_mean_bounds
