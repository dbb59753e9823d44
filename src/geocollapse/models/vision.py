"""Models of timm and torchvision by name, with their pretrained weights and preprocessing."""

from __future__ import annotations

import difflib
import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from typing_extensions import TypedDict

from geocollapse.data import ImagePreprocessing
from geocollapse.data.preprocessing import import_torchvision, of_channels
from geocollapse.models.hub import has_network, hub_cache, without_waiting
from geocollapse.models.loaded import RANDOM, LoadedModel, ModelArgs
from geocollapse.models.weight_files import DAMAGED

if TYPE_CHECKING:
    from PIL.Image import Image

_PIP = 'do pip install "geocollapse[vision]"'
_IMAGENET = 1000  # classes


class TimmConfig(TypedDict):
    """timm's data configuration of a model, as ``timm.data.resolve_model_data_config`` gives it."""

    input_size: Sequence[int]
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]


class TorchvisionTransform(Protocol):
    """torchvision's transform of a classifier of images, with its settings."""

    crop_size: Sequence[int]
    resize_size: Sequence[int]
    interpolation: _Interpolation
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, image: Image, /) -> Tensor: ...


class TorchvisionWeights(Protocol):
    """An entry of torchvision's weights, as far as the preprocessing is concerned."""

    @property
    def transforms(self) -> Callable[..., TorchvisionTransform]: ...


class _Interpolation(Protocol):
    value: str


def load_timm(name: str, *, is_pretrained: bool, model_args: ModelArgs) -> LoadedModel:
    """``timm:NAME``, also ``timm:NAME.TAG``, ``timm:hf-hub:ID`` and ``timm:local-dir:PATH``.

    Args:
        name: what follows ``timm:``.
        is_pretrained: with the published weights, from the Hugging Face cache or the network.
        model_args: keyword arguments of the architecture.

    Raises:
        ImportError: timm is missing (the pip command is named).
        ValueError: an unknown name (the nearest are named), arguments that the architecture does
            not take, a pretrained classifier of another number of classes.
        FileNotFoundError: the weights are neither in the cache nor to be had from the network.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            f"model: expected timm for timm:{name}, which is not installed; {_PIP}"
        ) from error
    if not name.startswith(("hf-hub:", "local-dir:")):  # these are not in timm's list
        _check_timm(timm, name, is_pretrained=is_pretrained, model_args=model_args)
    with without_waiting():
        make = functools.partial(timm.create_model, name, is_pretrained)
        model = _built(f"timm:{name}", make, model_args, places=(hub_cache(), "huggingface.co"))
    published = cast("dict[str, Any]", model.pretrained_cfg)
    n_channels = cast("int", model_args.get("in_chans", published["input_size"][0]))
    size = {"img_size": model_args["img_size"]} if "img_size" in model_args else {}
    config = timm.data.resolve_model_data_config(model, args=size)
    weights = published.get("hf_hub_id") or published.get("url") or name
    return LoadedModel(
        model,
        f"timm:{name}",
        weights=weights if is_pretrained else RANDOM,
        preprocessing=timm_preprocessing(config, n_channels),
        classes=_imagenet(timm) if is_pretrained and published["num_classes"] == _IMAGENET else (),
    )


def timm_preprocessing(
    config: TimmConfig,
    n_channels: int,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImagePreprocessing:
    """The evaluation transform of timm's data configuration.

    Mean and deviation of a model with another number of channels, such as a grey one, are averages.
    """
    from timm.data import create_transform

    means = of_channels(config["mean"], n_channels) if mean is None else tuple(mean)
    stds = of_channels(config["std"], n_channels) if std is None else tuple(std)
    height, width = config["input_size"][1:] if image_size is None else (image_size, image_size)
    settings: dict[str, Any] = {**config, "mean": means, "std": stds}
    settings["input_size"] = (n_channels, height, width)
    transform = create_transform(**settings, is_training=False)
    resize, crop = (_size_of(step) for step in transform.transforms[:2])
    return ImagePreprocessing(
        transform=transform,
        image_size=(height, width),
        resize=resize,
        crop=crop,
        interpolation=str(config["interpolation"]),
        mean=means,
        std=stds,
        source="timm",
        make=functools.partial(timm_preprocessing, config, n_channels),
    )


def load_torchvision(name: str, *, is_pretrained: bool, model_args: ModelArgs) -> LoadedModel:
    """``torchvision:NAME``, a classifier of images, with its default weights; see ``load_timm``."""
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise _unknown("torchvision", name, known)
    weights = models.get_model_weights(name).DEFAULT
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if is_pretrained:
        _check_classes(f"torchvision:{name}", model_args, len(weights.meta["categories"]))
        if not file.exists() and not has_network(weights.url):
            raise FileNotFoundError(_missing(f"torchvision:{name}", str(file), weights.url))
    settings = {"weights": weights if is_pretrained else None, "progress": False}
    make = functools.partial(models.get_model, name, **settings)
    model = _built(f"torchvision:{name}", make, model_args, places=(str(file), weights.url))
    return LoadedModel(
        model,
        f"torchvision:{name}",
        weights=str(weights) if is_pretrained else RANDOM,
        preprocessing=torchvision_preprocessing(weights),
        classes=tuple(weights.meta["categories"]) if is_pretrained else (),
    )


def torchvision_preprocessing(
    weights: TorchvisionWeights,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImagePreprocessing:
    """The transform that comes with torchvision's weights.

    With another size it crops the same share of the image.
    """
    transform = weights.transforms()
    (crop,) = transform.crop_size
    (resize,) = transform.resize_size
    changes: dict[str, object] = {}
    if image_size is not None:
        changes |= {"crop_size": image_size, "resize_size": round(image_size * resize / crop)}
    changes |= {
        key: tuple(value) for key, value in {"mean": mean, "std": std}.items() if value is not None
    }
    transform = weights.transforms(**changes)
    (crop,) = transform.crop_size
    (resize,) = transform.resize_size
    return ImagePreprocessing(
        transform=transform,
        image_size=(crop, crop),
        resize=(resize,),
        crop=(crop, crop),
        interpolation=transform.interpolation.value,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        source="torchvision",
        make=functools.partial(torchvision_preprocessing, weights),
    )


def _imagenet(timm: ModuleType) -> tuple[str, ...]:
    """The names of ImageNet's 1,000 classes."""
    info = timm.data.ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(label) for label in range(_IMAGENET))


def _size_of(step: object) -> tuple[int, int] | None:
    """The size that a step of a transform resizes or crops to; None for any other step."""
    size = getattr(step, "size", None)
    return tuple(size) if isinstance(size, list | tuple) else size and (size,)


def _check_timm(timm: ModuleType, name: str, *, is_pretrained: bool, model_args: ModelArgs) -> None:
    """Refuse a name unknown to timm, and pretrained weights that do not exist or do not fit."""
    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        raise _unknown("timm", architecture, known)
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise _unknown("timm", name, tagged or [architecture])
    published = timm.get_pretrained_cfg(name)
    if is_pretrained:
        _check_classes(f"timm:{name}", model_args, published.num_classes)
        if not published.has_weights:
            raise ValueError(
                f"model: expected pretrained weights of timm:{name}, got none, for none are "
                f"published; "
                f"do timm:{name}@random, or weights=FILE"
            )


def _built(
    name: str,
    factory: Callable[..., nn.Module],
    model_args: ModelArgs,
    *,
    places: tuple[str, str],
) -> nn.Module:
    """The model that ``factory`` makes from weights in ``places``; its errors in one form."""
    try:
        return factory(**model_args)
    except OSError as error:  # no network, or no such file on the server
        raise FileNotFoundError(_missing(name, *places)) from error
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        if _is_damage(error):
            raise ValueError(
                f"model: expected readable weights of {name} at {places[0]}, got a damaged file "
                f"({reason}); do remove it, and download it again"
            ) from error
        raise ValueError(
            f"model: expected arguments that {name} takes, got {dict(model_args)} ({reason}); do "
            f"check model_args"
        ) from error


def _is_damage(error: Exception) -> bool:
    """True for an error of a reader of weights, not of an architecture about its arguments."""
    readers = (SafetensorError, pickle.UnpicklingError, EOFError)
    return isinstance(error, readers) or "PytorchStreamReader" in str(error)


def _missing(name: str, place: str, source: str) -> str:
    return (
        f"model: expected the pretrained weights of {name} at {place} or from {source}, got "
        f"neither; "
        f"do fetch them where there is a network, or take {name}@random for untrained ones, or "
        f"weights=FILE"
    )


def _check_classes(name: str, model_args: ModelArgs, n_classes: int | None) -> None:
    """Refuse another number of classes, for which a pretrained classifier would be random."""
    asked = model_args.get("num_classes")
    if asked not in (None, 0, n_classes):
        raise ValueError(
            f"model: expected num_classes={n_classes} of the pretrained {name} (another classifier "
            f"would be random), "
            f"got {asked}; do num_classes=0 for the embedding alone, {name}@random, or "
            f"weights=FILE"
        )


def _unknown(library: str, name: str, known: Sequence[str]) -> ValueError:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    hint = " or ".join(f"{library}:{model}" for model in near) or f"see {library}'s list_models()"
    return ValueError(f"model: expected the name of a {library} model, got {name!r}; do {hint}")
