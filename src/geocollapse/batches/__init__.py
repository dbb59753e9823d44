"""Any accepted form of data, read as batches of (inputs, labels, positions in the data set).

The files, in the order they build on each other: inputs (what goes through a model together),
examples (how they are read), sharing (what several processes must have in common), forms (from any
data to examples).
"""

from geocollapse.batches.examples import MapExamples as MapExamples
from geocollapse.batches.examples import StreamExamples as StreamExamples
from geocollapse.batches.examples import as_map as as_map
from geocollapse.batches.forms import as_examples as as_examples
from geocollapse.batches.inputs import MASK as MASK
from geocollapse.batches.inputs import TOKENS as TOKENS
from geocollapse.batches.inputs import Batch as Batch
from geocollapse.batches.inputs import Enter as Enter
from geocollapse.batches.inputs import Inputs as Inputs
from geocollapse.batches.inputs import Take as Take
from geocollapse.batches.inputs import as_labels as as_labels
from geocollapse.batches.inputs import move as move
from geocollapse.batches.inputs import n_rows as n_rows
from geocollapse.batches.inputs import rows_of as rows_of
from geocollapse.batches.inputs import tensors_of as tensors_of
from geocollapse.batches.sharing import check_shared as check_shared
