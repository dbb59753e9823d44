"""A model as a map from its inputs to the features at its layers.

The files, in the order they build on each other: hooks (run while a block runs), rounding (how far
two passes may differ), moved (the first module that mixes), independence (that no module does),
padding (of texts), outputs (tuples and mappings), entry (where a Jacobian begins), layer (a place
in a model, by name), pooling (over positions), failing (errors of the model's own), feature_map
(from inputs to features), embedding (where a model is split), splitting (both parts of it), located
(the layers that a caller names).
"""

from geocollapse.features.embedding import Embedding as Embedding
from geocollapse.features.embedding import find_embedding as find_embedding
from geocollapse.features.failing import forward_pass as forward_pass
from geocollapse.features.feature_map import CallableMap as CallableMap
from geocollapse.features.feature_map import FeatureMap as FeatureMap
from geocollapse.features.feature_map import check_autocast as check_autocast
from geocollapse.features.layer import Layer as Layer
from geocollapse.features.pooling import Pool as Pool
from geocollapse.features.pooling import pooled as pooled
from geocollapse.features.splitting import split as split
