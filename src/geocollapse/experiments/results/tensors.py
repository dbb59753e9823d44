"""Tensors of a run as bytes of safetensors files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

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


def pack_weights(weights: Tensors) -> bytes:
    """Weights with the sizes of the model: outputs of the last layer, inputs of the first."""
    matrices = [tensor for tensor in weights.values() if tensor.ndim > 1]
    sizes = (
        {"num_classes": len(matrices[-1]), "input_shape": [matrices[0].shape[1]]}
        if matrices
        else {}
    )
    return pack(weights, {"geocollapse": json.dumps(sizes)})


def unpack_weights(content: bytes) -> tuple[dict[str, Tensor], ModelSizes]:
    """Weights and sizes that `pack_weights` wrote.

    Raises:
        ValueError: the content is no safetensors file, or does not state the sizes.
    """
    weights, metadata = unpack(content)
    try:
        sizes = json.loads(metadata.get("geocollapse", ""))
    except ValueError:
        sizes = None
    if not isinstance(sizes, dict) or not sizes:
        raise ValueError("the sizes of the model are not stated")
    return weights, {"num_classes": sizes["num_classes"], "input_shape": sizes["input_shape"]}


def digest(content: bytes) -> str:
    """The SHA-256 of a file's content."""
    return hashlib.sha256(content).hexdigest()
