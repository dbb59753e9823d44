"""One pass over model and data -> one Measurement.

The files, in the order of the data: store (kept features), reading (the pass), kept (what it
leaves), arrays and saved (the same in a file), classifier (its outputs and classes), context (what
layers share), layer (all measures of one layer), display (as a table and a figure), depth (several
layers), result (what the caller gets), run (``measure``).
"""

from geocollapse.measurement.layer import LayerMeasurement as LayerMeasurement
from geocollapse.measurement.layer import MeasurementDict as MeasurementDict
from geocollapse.measurement.result import LayersDict as LayersDict
from geocollapse.measurement.result import Measurement as Measurement
from geocollapse.measurement.run import measure as measure
from geocollapse.measurement.run import measure_features as measure_features
