"""The SHA-256 of what a model sees of a data set, by which its features can be cached."""

from __future__ import annotations

import hashlib
import json
import re

import torch
from torch import Tensor

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Fingerprint:
    """A SHA-256 over parts, each preceded by its length, so that no two lists of parts agree.

    Examples:
        >>> one, two = Fingerprint(), Fingerprint()
        >>> for part in ("ab", "c"):
        ...     one.add_value(part)
        >>> for part in ("a", "bc"):
        ...     two.add_value(part)
        >>> one.hexdigest() == two.hexdigest()
        False
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add_bytes(self, content: bytes | memoryview) -> None:
        """Add bytes."""
        n_bytes = content.nbytes if isinstance(content, memoryview) else len(content)
        self._hash.update(n_bytes.to_bytes(8, "little"))
        self._hash.update(content)

    def add_value(self, value: object) -> None:
        """Add a value that JSON can hold."""
        self.add_bytes(json.dumps(value, sort_keys=True).encode("ascii"))

    def add_tensor(self, tensor: Tensor) -> None:
        """Add the type, shape and numbers of a tensor, wherever it lies."""
        self.add_value([str(tensor.dtype), list(tensor.shape)])
        flat = tensor.detach().cpu().contiguous().flatten()
        self.add_bytes(flat.view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        """The 64 hexadecimal digits."""
        return self._hash.hexdigest()


def description(transform: object) -> str:
    """The ``repr`` of a transform without addresses of memory, which differ between processes."""
    return _ADDRESS.sub("", repr(transform))
