"""Features: maps from a model's input to its layers.

The files, in the order they build on each other: layer (a place by its name), pooling (positions),
maps (from inputs to features), failing (a forward pass that fails), embedding (where a model is
split), splitting (both parts of it).
"""

from geocollapse.features.embedding import Embedding as Embedding
from geocollapse.features.embedding import find_embedding as find_embedding
from geocollapse.features.failing import forward_pass as forward_pass
from geocollapse.features.layer import Layer as Layer
from geocollapse.features.maps import CallableMap as CallableMap
from geocollapse.features.maps import FeatureMap as FeatureMap
from geocollapse.features.maps import check_autocast as check_autocast
from geocollapse.features.pooling import Pool as Pool
from geocollapse.features.pooling import pooled as pooled
from geocollapse.features.splitting import split as split
