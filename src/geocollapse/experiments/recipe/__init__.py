"""Experiments as validated data: recipes, their settings, and the names of their runs."""

from geocollapse.experiments.recipe.files import recipe_names as recipe_names
from geocollapse.experiments.recipe.files import recipe_texts as recipe_texts
from geocollapse.experiments.recipe.identity import run_id as run_id
from geocollapse.experiments.recipe.moving import CorridorConfig as CorridorConfig
from geocollapse.experiments.recipe.moving import DALConfig as DALConfig
from geocollapse.experiments.recipe.moving import DynamicsConfig as DynamicsConfig
from geocollapse.experiments.recipe.moving import GradientPenaltyConfig as GradientPenaltyConfig
from geocollapse.experiments.recipe.moving import OrderEffectConfig as OrderEffectConfig
from geocollapse.experiments.recipe.network import build_network as build_network
from geocollapse.experiments.recipe.recipe import Recipe as Recipe
from geocollapse.experiments.recipe.recipe import load_recipe as load_recipe
from geocollapse.experiments.recipe.settings import ClaimsConfig as ClaimsConfig
from geocollapse.experiments.recipe.settings import DataConfig as DataConfig
from geocollapse.experiments.recipe.settings import MeasuringConfig as MeasuringConfig
from geocollapse.experiments.recipe.settings import ModelConfig as ModelConfig
from geocollapse.experiments.recipe.settings import PenaltyConfig as PenaltyConfig
from geocollapse.experiments.recipe.settings import PlanEntry as PlanEntry
from geocollapse.experiments.recipe.settings import PlannedRun as PlannedRun
from geocollapse.experiments.recipe.settings import RunConfig as RunConfig
from geocollapse.experiments.recipe.settings import SamplingConfig as SamplingConfig
from geocollapse.experiments.recipe.settings import TrainingConfig as TrainingConfig
from geocollapse.experiments.recipe.settings import TransferConfig as TransferConfig
from geocollapse.experiments.recipe.settings import value_at as value_at
from geocollapse.experiments.recipe.yaml_text import RecipeDumper as RecipeDumper
from geocollapse.experiments.recipe.yaml_text import parse_stored_yaml as parse_stored_yaml
from geocollapse.experiments.recipe.yaml_text import parse_yaml as parse_yaml
