"""Tensors of a run as bytes of safetensors files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from torch import Tensor

Tensors = Mapping[str, "Tensor"]


class ModelSizes(TypedDict):
    """The sizes that a model was built for."""

    num_classes: int
    input_shape: list[int]


def pack(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """The content of a safetensors file; tensors that share memory are written apart."""
    from safetensors.torch import save

    packed: bytes = save(
        {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, metadata
    )
    return packed


def unpack(content: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: the content is not one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"it is not a safetensors file ({error})") from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__") or {}


def pack_weights(weights: Tensors, about: Mapping[str, str] | None = None) -> bytes:
    """Weights with the sizes of the model: outputs of the last layer, inputs of the first.

    ``about`` is written beside the sizes.
    """
    matrices = [tensor for tensor in weights.values() if tensor.ndim > 1]
    sizes = (
        {"num_classes": len(matrices[-1]), "input_shape": [matrices[0].shape[1]]}
        if matrices
        else {}
    )
    return pack(weights, {"geocollapse": json.dumps({**sizes, **(about or {})})})


def pack_kept(weights: Tensors, run_id: str) -> bytes:
    """Weights of a checkpoint that is kept, with its run and the digest of its tensors."""
    return pack_weights(weights, {"run_id": run_id, "sha256": digest(pack(weights))})


def check_kept(content: bytes, run_id: str) -> None:
    """Refuse a kept checkpoint that is damaged or of another run; older ones do not say.

    Raises:
        ValueError: says which, or that the content is no safetensors file.
    """
    weights, metadata = unpack(content)
    about = _about(metadata)
    of_run = about.get("run_id", run_id)
    if of_run != run_id:
        raise ValueError(f"it is of run {of_run}, not that of config.yaml")
    if about.get("sha256") not in (None, digest(pack(weights))):
        raise ValueError("it is damaged")


def unpack_weights(content: bytes) -> tuple[dict[str, Tensor], ModelSizes]:
    """Weights and sizes that `pack_weights` wrote.

    Raises:
        ValueError: the content is no safetensors file, or does not state the sizes.
    """
    weights, metadata = unpack(content)
    sizes = _about(metadata)
    if "num_classes" not in sizes:
        raise ValueError("the sizes of the model are not stated")
    found = {name: sizes[name] for name in ("num_classes", "input_shape")}
    return weights, cast("ModelSizes", found)


def _about(metadata: Mapping[str, str]) -> dict[str, object]:
    """What a file of weights says of itself."""
    try:
        about = json.loads(metadata.get("geocollapse", ""))
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def digest(content: bytes) -> str:
    """The SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()
