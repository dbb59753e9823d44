"""Features kept: as rows in memory or on disk, as the record of a layer, and as a file.

The files, in the order they build on each other: rows (n rows, in memory or mapped), kept (what one
pass over a model leaves of a layer), formats (named arrays in a file), features_text (the JSON text
of a features file), features_file.
"""

from geocollapse.store.features_file import plain_layer as plain_layer
from geocollapse.store.features_file import read_features as read_features
from geocollapse.store.features_file import write_features as write_features
from geocollapse.store.kept import Context as Context
from geocollapse.store.kept import KeptLayer as KeptLayer
from geocollapse.store.rows import RowStore as RowStore
