"""Every measure once: what it is called, its unit, what it is invariant to, when it misleads.

Tables, figures, reports, the torchmetrics shell and the documentation read it here. How a value is
read from a measurement is defined in ``geocollapse.measurement.layer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from geocollapse.measures.classifier import CLASSIFIER
from geocollapse.measures.collapse import COLLAPSE
from geocollapse.measures.complexity import COMPLEXITY
from geocollapse.measures.label_free import LABEL_FREE
from geocollapse.measures.measure import Invariance as Invariance
from geocollapse.measures.measure import Measure as Measure
from geocollapse.measures.measure import Needs as Needs
from geocollapse.measures.measure import incomparable as incomparable
from geocollapse.measures.scores import FROM_TRAINING as FROM_TRAINING
from geocollapse.measures.scores import SCORES as SCORES

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {measure.name: measure for measure in (*COMPLEXITY, *COLLAPSE, *CLASSIFIER, *LABEL_FREE)}
)
OF_THE_CLASSIFIER = tuple(name for name, measure in MEASURES.items() if measure.of_classifier)
