"""Models of transformers by ID, folder or model type, with their image processor or tokenizer."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from geocollapse.data import ImagePreprocessing, Tokenizer
from geocollapse.data.preprocessing import IMAGE_SIZE, resize_and_crop
from geocollapse.models.hub import hub_cache, without_waiting
from geocollapse.models.loaded import RANDOM, LoadedModel, ModelArgs
from geocollapse.models.processors import processor_preprocessing

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

# code that lies with a model is not run; without this, transformers asks on stdin
_NO_CODE: Mapping[str, Any] = {"trust_remote_code": False}


def load_hugging_face(name: str, *, is_pretrained: bool, model_args: ModelArgs) -> LoadedModel:
    """``hf:ID`` or ``hf:DIR``, as the class that its configuration names, so with its head.

    Args:
        name: what follows ``hf:``. Untrained, also the type of a model, such as ``gpt2`` or
            ``vit``, which needs no file: a classifier of images, or of texts if ``num_labels`` is
            given, else a causal language model, else an encoder; ``architectures=[CLASS]`` chooses.
        is_pretrained: with the published weights, from the cache or the network.
        model_args: keys of its configuration.

    Raises:
        ImportError: transformers is missing (the pip command is named).
        ValueError: an unknown type or key, weights that leave a part of the model random.
        FileNotFoundError: the files are neither in the cache nor to be had from the network.
    """
    transformers = import_transformers(f"hf:{name}")
    with without_waiting(), _without_progress(transformers):
        config = _config(transformers, name, model_args, is_type_allowed=not is_pretrained)
        model = _model(transformers, name, config, is_pretrained=is_pretrained)
        takes = model.main_input_name
        preprocessing = (
            _preprocessing(transformers, name, config) if takes == "pixel_values" else None
        )
        tokenizer = _tokenizer(name) if takes == "input_ids" else None
    weights = name if is_pretrained else RANDOM
    return LoadedModel(
        model.eval(),
        f"hf:{name}",
        weights,
        preprocessing=preprocessing,
        tokenizer=tokenizer,
        classes=_classes(config) if is_pretrained else (),
    )


def _classes(config: object) -> tuple[str, ...]:
    """The names of the classes in a configuration; none where they are numbers."""
    names = getattr(config, "id2label", None) or {}
    found = tuple(str(name) for name in names.values())
    return () if any(name.startswith("LABEL_") for name in found) else found


def load_tokenizer(name: str) -> Tokenizer:
    """A transformers tokenizer by its ID, or from a folder.

    Raises:
        ImportError: transformers is missing (the pip command is named).
        ValueError: no tokenizer there.
    """
    transformers = import_transformers(f"the tokenizer {name}")
    try:
        with without_waiting():
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **_NO_CODE)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer: expected an ID or a folder, got {name!r} ({_reason(error)}); do check it"
        ) from error
    # Without files transformers makes a tokenizer that has special tokens alone.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError(
            f"tokenizer: expected one with words, got {name!r}, which has no files of one; do "
            f"check it"
        )
    found: Tokenizer = tokenizer
    return found


def import_transformers(wanted: str) -> ModuleType:
    """transformers, or an ImportError with the command that installs it."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"model: expected transformers for {wanted}, which is not installed; do pip install "
            f'"geocollapse[text]"'
        ) from error
    return transformers


def _config(
    transformers: ModuleType, name: str, model_args: ModelArgs, *, is_type_allowed: bool
) -> PretrainedConfig:
    """The configuration of a model, or of a model type, with the keys of ``model_args``."""
    types = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    if is_type_allowed and name in types and not Path(name).is_dir():
        return _config_of_type(transformers, name, model_args)
    config: PretrainedConfig
    try:
        _check_keys(name, model_args, transformers.AutoConfig.from_pretrained(name, **_NO_CODE))
        config = transformers.AutoConfig.from_pretrained(name, **_NO_CODE, **model_args)
    except ValueError as error:
        if str(error).startswith("model: "):
            raise
        raise ValueError(
            f"model: expected a model that transformers itself knows, got hf:{name} "
            f"({_reason(error)[:200]}); "
            f"do load it in a function of your own, FILE.py:FACTORY"
        ) from error
    except OSError as error:
        if "valid JSON" in str(error):
            raise ValueError(
                f"model: expected config.json of hf:{name} to be JSON, got a damaged file "
                f"({_reason(error)}); do copy or download it again"
            ) from error
        known = list(types) if is_type_allowed else []
        raise FileNotFoundError(_missing_config(name, known)) from error
    return config


def _config_of_type(transformers: ModuleType, kind: str, model_args: ModelArgs) -> PretrainedConfig:
    _check_keys(kind, model_args, transformers.AutoConfig.for_model(kind))
    config: PretrainedConfig = transformers.AutoConfig.for_model(kind, **model_args)
    config.architectures = config.architectures or [_default_class(transformers, kind, model_args)]
    return config


def _missing_config(name: str, types: Sequence[str]) -> str:
    """The error for a model without configuration; it may have been meant as one of ``types``."""
    near = difflib.get_close_matches(name, types, n=3, cutoff=0.6) or ["vit", "gpt2"]
    hint = f", or a model type such as {', '.join(f'hf:{kind}@random' for kind in near)}"
    return (
        f"model: expected config.json of hf:{name} in that folder, in {hub_cache()} or from "
        f"huggingface.co, "
        f"got none; do fetch it where there is a network{hint if '/' not in name else ''}"
    )


def _check_keys(name: str, model_args: ModelArgs, config: PretrainedConfig) -> None:
    """Refuse keys that the configuration does not have: transformers would silently keep them."""
    for key in model_args:
        if not hasattr(config, key):
            near = difflib.get_close_matches(key, list(config.to_dict()), n=1, cutoff=0.3) or [
                "num_labels"
            ]
            raise ValueError(
                f"model: expected keys of the configuration of hf:{name}, got {key!r}; do {near[0]}"
            )


def _default_class(transformers: ModuleType, kind: str, model_args: ModelArgs) -> str:
    """The class of a model type, with the head of its training or the one for ``num_labels``."""
    auto = transformers.models.auto.modeling_auto
    if kind in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        classes = auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[kind]
        return str(classes[0] if isinstance(classes, tuple) else classes)
    if "num_labels" in model_args and kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return str(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[kind])
    if (
        kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        return str(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])
    return "AutoModel"


def _model(
    transformers: ModuleType, name: str, config: PretrainedConfig, *, is_pretrained: bool
) -> PreTrainedModel:
    """The model of the class that its configuration names."""
    plain = transformers.AutoModel
    factory = getattr(transformers, (config.architectures or ["AutoModel"])[0], plain)
    if is_pretrained:
        return _pretrained(factory, name, config)
    if factory is plain:
        model: PreTrainedModel = plain.from_config(config, **_NO_CODE)
        return model
    make: Callable[..., PreTrainedModel] = factory
    return make(config)


def _pretrained(
    factory: type[PreTrainedModel], name: str, config: PretrainedConfig
) -> PreTrainedModel:
    """The model with all of its weights.

    Raises:
        FileNotFoundError: no weights.
        ValueError: weights that do not fit, or that leave a part random.
    """
    try:
        found: Any = factory.from_pretrained(
            name, config=config, output_loading_info=True, **_NO_CODE
        )
    except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"model: expected readable weights of hf:{name}, got a damaged file "
            f"({_reason(error)}); do copy or download it again"
        ) from error
    except OSError as error:
        if "Unable to load weights" in str(error):
            raise ValueError(
                f"model: expected readable weights of hf:{name}, got a damaged file "
                f"({_reason(error)[:200]}); do copy or download it again"
            ) from error
        raise FileNotFoundError(
            f"model: expected the pretrained weights of hf:{name} in that folder, in {hub_cache()} "
            f"or from "
            f"huggingface.co, got none; do fetch them where there is a network, or take "
            f"hf:{name}@random or "
            f"weights=FILE"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"model: expected weights that fit {factory.__name__}, got other shapes in hf:{name}; "
            f"do leave out model_args, or take hf:{name}@random"
        ) from error
    model: PreTrainedModel
    model, report = found
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"model: expected weights for all of {factory.__name__}, got none for "
            f"{', '.join(missing[:3])} and so "
            f"{len(missing)} random tensors in hf:{name}; do weights=FILE, or hf:{name}@random"
        )
    return model


def _preprocessing(
    transformers: ModuleType, name: str, config: PretrainedConfig
) -> ImagePreprocessing:
    """From the image processor that lies with the model, else from its configuration.

    The configuration tells the size; mean and deviation are then ImageNet's.
    """
    n_channels = getattr(config, "num_channels", 3)
    if "/" in name or Path(name).is_dir():
        try:
            return processor_preprocessing(
                transformers.AutoImageProcessor.from_pretrained(name, **_NO_CODE), n_channels
            )
        except OSError:
            pass  # none lies there
    size = getattr(config, "image_size", IMAGE_SIZE)
    side = size[0] if isinstance(size, list | tuple) else size
    return resize_and_crop(
        "no image processor: size of the configuration, ImageNet's mean and std", side, n_channels
    )


def _tokenizer(name: str) -> Tokenizer | None:
    """The tokenizer that lies with the model; without one, texts need ``tokenizer=``."""
    try:
        return load_tokenizer(name)
    except ValueError:
        return None


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


@contextmanager
def _without_progress(transformers: ModuleType) -> Iterator[None]:
    """Switch off the progress bars of transformers."""
    logging = transformers.utils.logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
