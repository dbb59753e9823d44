"""Files of weights, read without running pickled code."""

from __future__ import annotations

import pickle
import struct
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

# what the readers of safetensors, zip files and torch's older format raise on damaged bytes
DAMAGED = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read_weights(path: Path) -> object:
    """The content of a ``.safetensors`` file, or of a file of ``torch.save``.

    Nothing is unpickled but tensors and plain containers (``weights_only=True``).

    Raises:
        FileNotFoundError: no such file.
        ValueError: pickled code, or a damaged file.
    """
    if not path.is_file():
        state = "is no regular file" if path.exists() else "does not exist"
        raise FileNotFoundError(
            f"weights: expected a file, got {str(path)!r}, which {state}; do check the path"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # torch wonders at the pickle protocol of damaged files
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"weights: expected tensors only, got pickled code (not run) or a damaged file in "
            f"{path.name}; "
            f"do torch.save(model.state_dict(), 'weights.pt') where the file was made"
        ) from error
    except DAMAGED as error:
        raise ValueError(
            f"weights: expected a readable file, got {path.name}, which is damaged "
            f"({type(error).__name__}: {error}); "
            f"do copy or download it again"
        ) from error
