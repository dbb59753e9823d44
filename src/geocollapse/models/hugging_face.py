"""Models of transformers by ID, folder or model type, with their image processor or tokenizer."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from geocollapse.data import ImagePreprocessing
from geocollapse.data.preprocessing import IMAGE_SIZE, resize_and_crop
from geocollapse.models.hub import hub_cache, without_waiting
from geocollapse.models.loaded import RANDOM, LoadedModel

_RESAMPLING = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}  # PIL's numbers


def load_hugging_face(
    name: str, *, is_pretrained: bool, model_args: Mapping[str, Any]
) -> LoadedModel:
    """``hf:ID`` or ``hf:DIR``, as the class its configuration names, so that the head is there.

    Args:
        name: behind ``hf:``. Untrained, also the type of a model, such as ``gpt2`` or ``vit``,
            which needs no file: a classifier of images, or of texts where ``num_labels`` is given,
            else a causal language model, else an encoder; ``architectures=[CLASS]`` chooses.
        is_pretrained: with the published weights, from the cache or the network.
        model_args: keys of its configuration.

    Raises:
        ImportError: transformers is missing (the pip command is named).
        ValueError: an unknown type or key, weights that leave a part of the model random.
        FileNotFoundError: the files can be had neither from the cache nor from the network.
    """
    transformers = import_transformers(f"hf:{name}")
    with without_waiting(), _without_progress(transformers):
        config = _config(transformers, name, model_args, is_type_allowed=not is_pretrained)
        factory = getattr(
            transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel
        )
        if is_pretrained:
            model = _pretrained(factory, name, config)
        else:
            model = (
                factory.from_config(config)
                if factory is transformers.AutoModel
                else factory(config)
            )
        takes = model.main_input_name
        preprocessing = (
            _preprocessing(transformers, name, config) if takes == "pixel_values" else None
        )
        tokenizer = _tokenizer(name) if takes == "input_ids" else None
    weights = name if is_pretrained else RANDOM
    return LoadedModel(
        model.eval(), f"hf:{name}", weights, preprocessing=preprocessing, tokenizer=tokenizer
    )


def load_tokenizer(name: str) -> Any:
    """A transformers tokenizer by its ID, or from a folder.

    Raises:
        ImportError: transformers is missing (the pip command is named).
        ValueError: no tokenizer there.
    """
    transformers = import_transformers(f"the tokenizer {name}")
    try:
        with without_waiting():
            tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"tokenizer: expected an ID or a folder, got {name!r} ({_reason(error)}); do check it"
        ) from error
    if len(tokenizer) <= len(
        tokenizer.all_special_tokens
    ):  # what transformers makes where there are no files
        raise ValueError(
            f"tokenizer: expected one with words, got {name!r}, which has no files of one; do "
            f"check it"
        )
    return tokenizer


def import_transformers(wanted: str) -> Any:
    """transformers, or an ImportError with the command that installs it."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"model: expected transformers for {wanted}, which is not installed; do pip install "
            f'"geocollapse[text]"'
        ) from error
    return transformers


def processor_preprocessing(
    processor: Any,
    n_channels: int,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImagePreprocessing:
    """What a transformers image processor does; another size keeps the share that is cropped."""
    from PIL import Image

    settings = _sizes(processor, image_size) | {
        key: list(value)
        for key, value in {"image_mean": mean, "image_std": std}.items()
        if value is not None
    }
    means, stds = _normalisation(processor, n_channels, settings)
    transform = functools.partial(_processed, processor, settings)
    blank = transform(Image.new("RGB" if n_channels == 3 else "L", (IMAGE_SIZE, IMAGE_SIZE)))
    image_size_taken = (blank.shape[1], blank.shape[2])
    return ImagePreprocessing(
        transform,
        image_size_taken,
        _side(settings.get("size", processor.size)) if processor.do_resize else None,
        image_size_taken if getattr(processor, "do_center_crop", None) else None,
        _RESAMPLING.get(int(getattr(processor, "resample", None) or 0), "unknown"),
        means,
        stds,
        type(processor).__name__,
        functools.partial(processor_preprocessing, processor, n_channels),
    )


def _config(
    transformers: Any, name: str, model_args: Mapping[str, Any], *, is_type_allowed: bool
) -> Any:
    types = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    if is_type_allowed and name in types and not Path(name).is_dir():
        _check_keys(name, model_args, transformers.AutoConfig.for_model(name))
        config = transformers.AutoConfig.for_model(name, **model_args)
        config.architectures = config.architectures or [
            _default_class(transformers, name, model_args)
        ]
        return config
    try:
        _check_keys(name, model_args, transformers.AutoConfig.from_pretrained(name))
        return transformers.AutoConfig.from_pretrained(name, **model_args)
    except ValueError as error:
        if str(error).startswith("model: "):
            raise
        raise ValueError(
            f"model: expected a model that transformers itself knows, got hf:{name} "
            f"({_reason(error)[:200]}); "
            f"do load it in a function of your own, FILE.py:FACTORY"
        ) from error
    except OSError as error:
        near = difflib.get_close_matches(name, types, n=3, cutoff=0.6) if is_type_allowed else []
        types_text = f", or a model type such as {', '.join(f'hf:{kind}@random' for kind in near or ['vit', 'gpt2'])}"
        raise FileNotFoundError(
            f"model: expected config.json of hf:{name} in that folder, in {hub_cache()} or from "
            f"huggingface.co, "
            f"got none; do fetch it where there is a network{types_text if '/' not in name else ''}"
        ) from error


def _check_keys(name: str, model_args: Mapping[str, Any], config: Any) -> None:
    """transformers keeps what it does not know without a word."""
    for key in model_args:
        if not hasattr(config, key):
            near = difflib.get_close_matches(key, list(config.to_dict()), n=1, cutoff=0.3) or [
                "num_labels"
            ]
            raise ValueError(
                f"model: expected keys of the configuration of hf:{name}, got {key!r}; do {near[0]}"
            )


def _default_class(transformers: Any, kind: str, model_args: Mapping[str, Any]) -> str:
    """The class of a model type: with a head where the type has one that its training uses, or
    ``num_labels`` asks.
    """
    auto = transformers.models.auto.modeling_auto
    if kind in auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return str(_first(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[kind]))
    if "num_labels" in model_args and kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return str(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[kind])
    if (
        kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    ):
        return str(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])
    return "AutoModel"


def _pretrained(factory: Any, name: str, config: Any) -> Any:
    """The model with its weights, all of them.

    Raises:
        FileNotFoundError: no weights.
        ValueError: weights that do not fit, or that leave a part random.
    """
    try:
        model, report = factory.from_pretrained(name, config=config, output_loading_info=True)
    except OSError as error:
        raise FileNotFoundError(
            f"model: expected the pretrained weights of hf:{name} in that folder, in {hub_cache()} "
            f"or from "
            f"huggingface.co, got none; do fetch them where there is a network, or take "
            f"hf:{name}@random or "
            f"--weights FILE"
        ) from error
    except RuntimeError as error:
        raise ValueError(
            f"model: expected weights that fit {factory.__name__}, got other shapes in hf:{name}; "
            f"do leave out --model-arg, or take hf:{name}@random"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(
            f"model: expected weights for all of {factory.__name__}, got none for "
            f"{', '.join(missing[:3])} and so "
            f"{len(missing)} random tensors in hf:{name}; do --weights FILE, or hf:{name}@random"
        )
    return model


def _preprocessing(transformers: Any, name: str, config: Any) -> ImagePreprocessing:
    """Of the image processor that lies with the model, else the size of its configuration with
    ImageNet's values.
    """
    n_channels = getattr(config, "num_channels", 3)
    if "/" in name or Path(name).is_dir():
        try:
            return processor_preprocessing(
                transformers.AutoImageProcessor.from_pretrained(name), n_channels
            )
        except OSError:
            pass  # none lies there
    size = _first(getattr(config, "image_size", IMAGE_SIZE))
    return resize_and_crop(
        "no image processor: size of the configuration, ImageNet's mean and std", size, n_channels
    )


def _tokenizer(name: str) -> Any | None:
    try:
        return load_tokenizer(name)
    except ValueError:
        return None  # a model without one; texts then need --tokenizer


def _processed(processor: Any, settings: Mapping[str, Any], image: Any) -> Tensor:
    pixels: Tensor = processor(images=image, return_tensors="pt", **settings)["pixel_values"][0]
    return pixels


def _sizes(processor: Any, image_size: int | None) -> dict[str, Any]:
    """Settings of a processor for another size of its result."""
    if image_size is None:
        return {}
    square = {"height": image_size, "width": image_size}
    size, crop = _side(processor.size), getattr(processor, "crop_size", None)
    if len(size) == 2:
        return {"size": square, "crop_size": square} if crop else {"size": square}
    share = size[0] / _side(crop)[0] if crop else 1.0
    resized = {"shortest_edge": round(image_size * share)}
    return {"size": resized, "crop_size": square} if crop else {"size": resized}


def _side(size: Any) -> tuple[int, ...]:
    """(height, width), or the shorter side alone."""
    values = dict(size)
    if values.get("shortest_edge"):
        return (values["shortest_edge"],)
    return (values["height"], values["width"])


def _normalisation(
    processor: Any, n_channels: int, settings: Mapping[str, Any]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels in [0, 1]: x = (255 r p - m) / s with the processor's factor r,
    m and s.
    """
    scale = 255.0 * (processor.rescale_factor if processor.do_rescale else 1.0)
    if not processor.do_normalize:
        return (0.0,) * n_channels, (1.0 / scale,) * n_channels
    means, stds = (
        settings.get(key, getattr(processor, key)) for key in ("image_mean", "image_std")
    )
    return tuple(float(m) / scale for m in means), tuple(float(s) / scale for s in stds)


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) else value


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


@contextmanager
def _without_progress(transformers: Any) -> Iterator[None]:
    """Inside, transformers shows no progress bars of its own."""
    logging = transformers.utils.logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
