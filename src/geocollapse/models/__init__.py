"""Networks of the paper's experiments (architectures); models by name (vision, hugging_face) or
factory (loading).
"""

from geocollapse.models.architectures import MODELS as MODELS
from geocollapse.models.architectures import Architecture as Architecture
from geocollapse.models.architectures import build as build
from geocollapse.models.hugging_face import load_tokenizer as load_tokenizer
from geocollapse.models.loaded import RANDOM as RANDOM
from geocollapse.models.loaded import LoadedModel as LoadedModel
from geocollapse.models.loading import load as load
from geocollapse.models.loading import load_weights as load_weights
from geocollapse.models.loading import parse_model as parse_model
