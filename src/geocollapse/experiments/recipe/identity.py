"""The name of a run: a hash of its configuration that keys added later leave unchanged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import BaseModel

from geocollapse.experiments.recipe.game import GameRunConfig

# Every key of a supervised run's configuration in version 1 of the schema, by its part. They are
# hashed whatever their value. This list is closed: a key added to the configuration goes into
# LATER.
VERSION_1: Mapping[str, frozenset[str]] = {
    "": frozenset(
        {
            *("data", "model", "training", "measuring", "transfer"),
            *("seed", "threads", "keep_checkpoints"),
        }
    ),
    "data": frozenset(
        {
            *("name", "source_classes", "target_classes", "source_split", "target_split"),
            *("subset", "target_subset", "mean", "std", "pad_to", "augmentation"),
        }
    ),
    "model": frozenset({"name", "args"}),
    "training": frozenset(
        {
            *("learning_rate", "batch_size", "weight_decay", "momentum", "schedule", "milestones"),
            *("label_smoothing", "gc_penalty", "max_steps", "stop_accuracy", "extra_factor"),
            "recalibrate_batch_norm",
        }
    ),
    "training.gc_penalty": frozenset(
        {"weight", "n_probes", "batch_fraction", "every", "batch_norm"}
    ),
    "measuring": frozenset(
        {
            *("points", "every", "estimator", "n_probes", "max_samples"),
            *("evaluation_batch_size", "sampling"),
        }
    ),
    "measuring.sampling": frozenset(
        {"repeats", "n_samples", "n_outputs", "n_probes", "kept_shares"}
    ),
    "transfer": frozenset({"n_way", "k_shots", "n_query", "n_episodes"}),
}

# Keys added since, each with the default it came with, as JSON. They are hashed where they have
# another value. A line stays as it is even if the default of the class changes: else stored runs
# would get other names. A part of keys has the default {}, and a line for each of its keys.
LATER: dict[str, object] = {
    "training.optimizer": "sgd",
    "data.image_size": None,
    "data.n_classes": None,
    "data.text_model": None,
    "model.factory": None,
    "model.sha256": None,
    "measuring.first": 1,
    "measuring.history_subset": None,
    "measuring.per_class": True,
    "training.loss": "cross_entropy",
    "training.memory_format": "contiguous",
    "data.test_split": None,
    "data.test_subset": None,
    "training.corridor": {},
    "training.corridor.smallest_loss": 0.0,
    "training.corridor.max_learning_rate": None,
    "training.corridor.eps": 0.0,
    "training.dal": {},
    "training.dal.power": 1.0,
    "training.dal.max_learning_rate": 5.0,
    "training.dal.every": 1,
    "training.gradient_penalty": {},
    "training.gradient_penalty.weight": 0.0,
    "training.gradient_penalty.n_micro_batches": 1,
    "training.gradient_penalty.batch_fraction": 1.0,
    "training.gradient_penalty.every": 1,
    "training.gradient_penalty.batch_norm": "refuse",
    "measuring.dynamics": None,
    "measuring.dynamics.subset": 500,
    "measuring.dynamics.sharpness": True,
    "measuring.dynamics.n_batches": 8,
    "data.random_labels": 0.0,
    "data.random_labels_seed": 0,
    "model.initial_scale": 1.0,
    "training.l2_penalty": 0.0,
    "training.spectral_norm_penalty": 0.0,
    "training.input_noise": 0.0,
    "measuring.margin": None,
    "measuring.transfer_inequality": None,
    "measuring.order_effect": None,
    "measuring.order_effect.name": None,  # has no default: it is always hashed
    "measuring.order_effect.split": None,
    "measuring.order_effect.classes": None,
    "measuring.order_effect.subset": 500,
    "measuring.order_effect.learning_rate": 0.01,
    "measuring.order_effect.n_steps": [1, 4, 16, 64],
}

# The same two tables for games.
GAME_VERSION_1: Mapping[str, frozenset[str]] = {
    "": frozenset(
        {
            *("kind", "game", "learning_rates", "order", "n_updates", "cancel", "cancel_weight"),
            *("spectral_norm", "n_turns", "record_every", "seed", "threads"),
        }
    )
}
GAME_LATER: dict[str, object] = {}


def run_id(config: BaseModel) -> str:
    """First 12 hexadecimal digits of the SHA-256 of the canonical JSON of a run's configuration.

    The JSON holds every key of version 1 and those later keys that differ from their default, so
    an added key renames no stored run. Device, paths, workers and version are no part of the
    configuration: a run has the same name on every machine.
    """
    text = json.dumps(hashed_part(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def hashed_part(config: BaseModel) -> dict[str, object]:
    """The keys of a configuration that name its run, as JSON values."""
    if isinstance(config, GameRunConfig):
        return _hashed(config, "", GAME_VERSION_1, GAME_LATER)
    return _hashed(config, "", VERSION_1, LATER)


def _hashed(
    config: BaseModel,
    part: str,
    first: Mapping[str, frozenset[str]],
    later: Mapping[str, object],
) -> dict[str, object]:
    """The keys of a part, whose dotted key is ``part``, by the two tables of its kind."""
    values = config.model_dump(mode="json")
    changed = config.model_dump(mode="json", exclude_defaults=True)
    hashed: dict[str, object] = {}
    for key, value in values.items():
        name = f"{part}.{key}".lstrip(".")
        inner = getattr(config, key)
        found = _hashed(inner, name, first, later) if isinstance(inner, BaseModel) else value
        if key in first.get(part, ()):
            hashed[key] = found
        elif name in later:
            hashed |= {} if found == later[name] else {key: found}
        elif key in changed:  # not pinned yet: the default of the class counts
            hashed[key] = value
    return hashed
