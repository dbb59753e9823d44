"""One pass over model and data -> one Measurement.

The files, in the order of the data: store (kept features), reading (the pass), layer (all measures of one layer),
result (what the caller gets), display (as a table and a figure), run (``measure``).
"""

from geocollapse.measurement.layer import LayerMeasurement as LayerMeasurement
from geocollapse.measurement.layer import MeasurementDict as MeasurementDict
from geocollapse.measurement.result import LayersDict as LayersDict
from geocollapse.measurement.result import Measurement as Measurement
from geocollapse.measurement.run import measure as measure
