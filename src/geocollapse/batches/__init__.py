"""Data in any accepted form, read as batches of inputs, labels and positions in the data set.

The files, in the order they build on each other: about (the attributes of a data set), batch
(inputs and labels from what a loader yields), examples (read by position, or once as a stream),
sharing (one data set over several processes), forms (from any data to examples).
"""

from geocollapse.batches.about import AboutData as AboutData
from geocollapse.batches.batch import Batch as Batch
from geocollapse.batches.examples import Examples as Examples
from geocollapse.batches.examples import MapExamples as MapExamples
from geocollapse.batches.examples import StreamExamples as StreamExamples
from geocollapse.batches.examples import as_map as as_map
from geocollapse.batches.forms import as_examples as as_examples
from geocollapse.batches.sharing import check_shared as check_shared
