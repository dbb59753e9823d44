"""One pass over model and data -> one Measurement.

The files, in the order of the data: one_pass and reading (the pass), classifier (its outputs and
classes), context (shared by all layers), compute (the measures of a layer), layer
(their record), table and figure (of one layer), depth (of several), result (for the caller), run
(``measure``), collect (features alone), margin (of the logits).
"""

from geocollapse.measurement.collect import Features as Features
from geocollapse.measurement.collect import collect_features as collect_features
from geocollapse.measurement.json_form import MeasurementDict as MeasurementDict
from geocollapse.measurement.layer import LayerMeasurement as LayerMeasurement
from geocollapse.measurement.margin import MarginReading as MarginReading
from geocollapse.measurement.margin import margin_complexity as margin_complexity
from geocollapse.measurement.margin import measure_margins as measure_margins
from geocollapse.measurement.result import LayersDict as LayersDict
from geocollapse.measurement.result import Measurement as Measurement
from geocollapse.measurement.run import measure as measure
from geocollapse.measurement.run import measure_features as measure_features
