"""Networks of the paper's experiments (architectures); models of a file or package, with weights (loading)."""

from geocollapse.models.architectures import MODELS as MODELS
from geocollapse.models.architectures import Architecture as Architecture
from geocollapse.models.architectures import build as build
from geocollapse.models.loading import LoadedModel as LoadedModel
from geocollapse.models.loading import load as load
from geocollapse.models.loading import load_tokenizer as load_tokenizer
from geocollapse.models.loading import load_weights as load_weights
