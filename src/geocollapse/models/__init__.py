"""Architectures, models by name with their weights, and data made ready for them.

The files, in the order they build on each other: architectures (the networks of the papers'
experiments); hub; loaded (a model with its origin); weight_files, fitting and weights (state dicts
from files); vision (timm, torchvision); processors and hugging_face (transformers); model_files and
factories; loading; prepared (data for one model).
"""

from geocollapse.models.architectures import MODELS as MODELS
from geocollapse.models.architectures import Architecture as Architecture
from geocollapse.models.architectures import build as build
from geocollapse.models.hugging_face import load_tokenizer as load_tokenizer
from geocollapse.models.loaded import RANDOM as RANDOM
from geocollapse.models.loaded import LoadedModel as LoadedModel
from geocollapse.models.loaded import TrainingRecord as TrainingRecord
from geocollapse.models.loaded import module_of as module_of
from geocollapse.models.loading import load as load
from geocollapse.models.loading import parse_model as parse_model
from geocollapse.models.prepared import Prepared as Prepared
from geocollapse.models.prepared import prepare as prepare
from geocollapse.models.weights import LoadedWeights as LoadedWeights
from geocollapse.models.weights import load_weights as load_weights
