"""Morse networks in safetensors files, checked when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn
from typing_extensions import TypedDict

from geocollapse.estimate import Json
from geocollapse.morse.classifier import MorseClassifier
from geocollapse.morse.kernels import KERNELS, KernelName
from geocollapse.morse.maps import DenseMap
from geocollapse.morse.network import MorseNetwork
from geocollapse.runtime.files import written_whole

VERSION = 1
_TEXT = "geocollapse_morse"


class DenseMapDict(TypedDict):
    """The shape of a dense map."""

    n_inputs: int
    n_outputs: int
    hidden: list[int]


class _Text(TypedDict):
    """The JSON text of a file; version 1 is frozen, later keys are optional."""

    version: int
    kind: str
    kernel: KernelName
    scale: float
    dense_map: DenseMapDict | None
    about: dict[str, Json]


class Saved(NamedTuple):
    """A network of a file, and what was recorded beside it."""

    network: MorseNetwork | MorseClassifier
    about: dict[str, Json]


def save_network(
    network: MorseNetwork | MorseClassifier,
    path: str | Path,
    *,
    about: Mapping[str, Json] | None = None,
) -> None:
    """Write a Morse network to a safetensors file, whole or not at all.

    Args:
        network: its parameters, kernel, targets and box are kept. The layers of a ``dense_map`` are
            too; another map must be given to ``load_network``.
        path: ends in ``.safetensors``.
        about: recorded beside it, such as the names of model and data.

    Raises:
        ValueError: another ending.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"path: expected a file ending in .safetensors, got {str(path)!r}; do "
            f"detector.safetensors"
        )
    map = network.map
    text: _Text = {
        "version": VERSION,
        "kind": "classifier" if isinstance(network, MorseClassifier) else "network",
        "kernel": network.kernel,
        "scale": network.scale,
        "dense_map": _shape_of(map) if isinstance(map, DenseMap) else None,
        "about": dict(about or {}),
    }
    state = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    with written_whole(path) as partial:
        save_file(state, partial, metadata={_TEXT: json.dumps(text, allow_nan=False)})


def load_network(path: str | Path, *, map: nn.Module | None = None) -> Saved:
    """Read a Morse network from a file of ``save_network``.

    Args:
        path: of the file.
        map: a module that takes its parameters, where the network was not built on a ``dense_map``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, a newer version, an unknown kernel, a map that is missing
            or has other parameters.

    Examples:
        >>> import tempfile, torch
        >>> from geocollapse.morse import dense_map
        >>> net = MorseNetwork(dense_map(3, 2), kernel="cauchy")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_network(net, f"{folder}/net.safetensors")
        ...     again = load_network(f"{folder}/net.safetensors").network
        >>> x = torch.ones(1, 3)
        >>> bool(net.density(x) == again.density(x)), again.kernel
        (True, 'cauchy')
    """
    path = Path(path)
    state, text = _read(path)
    if text["version"] > VERSION or text["kernel"] not in KERNELS:
        raise ValueError(
            f"detector: expected version {VERSION} with a kernel of {', '.join(KERNELS)}, got "
            f"version {text['version']} with {text['kernel']!r} in {path.name}; do update "
            f"geocollapse"
        )
    if map is None:
        map = _built(text["dense_map"], path)
    network: MorseNetwork | MorseClassifier
    if text["kind"] == "classifier":
        network = MorseClassifier(
            map, kernel=text["kernel"], targets=state["targets"], scale=text["scale"]
        )
    else:
        network = MorseNetwork(map, text["kernel"], state.get("target"), text["scale"])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # names and shapes that do not fit, one a line
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"map: expected the parameters of {path.name}, got others ({reason}); do the map that "
            f"was saved"
        ) from error
    return Saved(network, text["about"])


def _read(path: Path) -> tuple[dict[str, Tensor], _Text]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(
            f"detector: expected a file, got {str(path)!r}, which does not exist; do check it"
        )
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_TEXT)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"detector: expected a safetensors file, got {path.name} ({error}); do write it again"
        ) from error
    if text is None:
        raise ValueError(
            f"detector: expected a Morse network, got {path.name} without one; do save_network, or "
            f"geocollapse ood --save"
        )
    return state, json.loads(text)


def _shape_of(map: DenseMap) -> DenseMapDict:
    return {"n_inputs": map.n_inputs, "n_outputs": map.n_outputs, "hidden": list(map.hidden)}


def _built(shape: DenseMapDict | None, path: Path) -> DenseMap:
    if shape is None:
        raise ValueError(
            f"map: expected the module that {path.name} was saved with, got None; do "
            f"load_network(path, map=...)"
        )
    return DenseMap(shape["n_inputs"], shape["n_outputs"], shape["hidden"])
