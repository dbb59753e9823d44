"""Features: maps from a model's input to its layers.

The files, in the order they build on each other: wrapped (models inside torch.compile or
DistributedDataParallel), borrow (the caller's model, handed back as it was), mixing and
independence (models whose examples influence each other), padding, outputs, entry (where a Jacobian
begins), layer (a place by its name), pooling, failing (a forward pass that fails), feature_map
(from inputs to features), embedding (where a model is split), splitting (both parts of it).
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
