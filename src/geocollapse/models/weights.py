"""Weights from a file: a state dict, or the only entry of the file that fits the model."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from geocollapse.estimate import GeocollapseWarning
from geocollapse.models.fitting import State, Target, some, under
from geocollapse.models.weight_files import read_weights

_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile
# what training code calls the model inside its own, in the order in which they are preferred
_PREFIXES = ("model.", "net.", "network.", "backbone.", "encoder.", "encoder_q.", "base_encoder.")


@dataclass(frozen=True)
class LoadedWeights:
    """The part of a file that was loaded.

    Attributes:
        key: entry of the file that held the state dict; None if the file is one.
        prefix: of the names in the file, which the model does not have; empty if there is none.
    """

    key: str | None
    prefix: str


def load_weights(
    model: nn.Module, path: str | Path, *, key: str | None = None, prefix: str | None = None
) -> LoadedWeights:
    """Load a state dict into ``model``: every tensor must fit.

    The prefixes ``module.`` and ``_orig_mod.`` of a wrapped or a compiled model are stripped. Where
    the names fit only without another prefix, such as ``backbone.``, it is taken off, and a warning
    says how many tensors outside it are left out. What ``load_state_dict`` renames is taken, such
    as the tensors of older versions of ``weight_norm``. Nothing is unpickled but tensors and plain
    containers (``weights_only=True``).

    Args:
        model: the module.
        path: safetensors, or a ``.pt``, ``.pth`` or ``.th`` file.
        key: entry of the file that holds the state dict; by default the only one that fits.
        prefix: of the names to load; by default none, else the only one under which all fit.

    Raises:
        FileNotFoundError: no such file.
        ValueError: pickled code, missing or unexpected keys, shapes or types that do not fit, such
            as integers for floating point numbers.
    """
    path = Path(path)
    target = Target(model)
    candidates = _state_dicts(read_weights(path), key, target.wanted)
    found = _fitting(target, candidates, prefix, path)
    if len(found) != 1:
        _refuse(target, path, candidates, list(found), type(model).__name__)
    ((entry, part),) = found
    state = under(part, candidates[entry])
    model.load_state_dict(state, strict=False)  # every key was compared above
    if left := len(candidates[entry]) - len(state):
        warnings.warn(
            f"weights: {left} tensors of {path.name} without the prefix {part} were left out",
            GeocollapseWarning,
            stacklevel=2,
        )
    return LoadedWeights(entry or None, part)


def _state_dicts(content: object, key: str | None, wanted: Collection[str]) -> dict[str, State]:
    """State dicts of a file by their entry: "" for the file itself, ``a.b`` for a nested one."""
    if not isinstance(content, Mapping):
        raise ValueError(
            f"weights: expected a state dict, got {type(content).__name__}; do save "
            f"model.state_dict()"
        )
    found = _search(content, "", wanted)
    if key is None:
        return found
    if key not in found:
        known = ", ".join(filter(None, found)) or "none: leave weights_key out"
        raise ValueError(
            f"weights_key: expected an entry that is a state dict, got {key!r}; do one of {known}"
        )
    return {key: found[key]}


def _search(
    content: Mapping[object, object], name: str, wanted: Collection[str]
) -> dict[str, State]:
    found: dict[str, State] = (
        {name: _stripped(content, wanted)}
        if any(isinstance(value, Tensor) for value in content.values())
        else {}
    )
    for key, entry in content.items():
        if isinstance(entry, Mapping):
            found |= _search(entry, f"{name}.{key}" if name else str(key), wanted)
    return found


def _stripped(state: Mapping[object, object], wanted: Collection[str]) -> State:
    """The tensors, without prefixes of a wrapper that all names have and the model does not."""
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    while not any(name in wanted for name in tensors):
        prefix = next(
            (prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in tensors)),
            None,
        )
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _fitting(
    target: Target, candidates: Mapping[str, State], prefix: str | None, path: Path
) -> list[tuple[str, str]]:
    """The entries that fit, each with its prefix: none if possible, else the only one that does."""
    if prefix is not None:
        return _under_prefix(target, candidates, prefix.rstrip(".") + ".", path)
    plain = [(entry, "") for entry, state in candidates.items() if target.fits(state)]
    if plain:
        return plain
    found = []
    for entry, state in candidates.items():
        prefixes = target.prefixes(state)
        usual = [part for part in _PREFIXES if part in prefixes]
        if len(prefixes) > 1 and not usual:
            raise ValueError(
                f"weights_prefix: expected one prefix under which all weights of {path.name} fit, "
                f"got {some(prefixes)}; do weights_prefix={prefixes[0]!r}"
            )
        found += [(entry, part) for part in (usual or prefixes)[:1]]
    return found


def _under_prefix(
    target: Target, candidates: Mapping[str, State], prefix: str, path: Path
) -> list[tuple[str, str]]:
    """The entries that fit under the prefix asked for."""
    parts = {entry: under(prefix, state) for entry, state in candidates.items()}
    if not any(parts.values()):
        known = dict.fromkeys(
            name.partition(".")[0] + "." for state in candidates.values() for name in state
        )
        raise ValueError(
            f"weights_prefix: expected a prefix of names in {path.name}, got {prefix!r}; do one of "
            f"{some(list(known))}"
        )
    fitting = [(entry, prefix) for entry, state in parts.items() if state and target.fits(state)]
    if fitting:
        return fitting
    state = max(parts.values(), key=len)
    raise ValueError(
        f"weights_prefix: expected weights that fit under {prefix!r}, got "
        f"{'; '.join(target.misfits(state))}; do check it"
    )


def _refuse(
    target: Target,
    path: Path,
    candidates: Mapping[str, State],
    fitting: list[tuple[str, str]],
    kind: str,
) -> None:
    if fitting:
        entries = [entry for entry, _ in fitting]
        raise ValueError(
            f"weights: expected one entry that fits, got {', '.join(entries)}; do "
            f"weights_key={entries[0]!r}"
        )
    if not candidates:
        raise ValueError(
            f"weights: expected a state dict in {path.name}, got none; do save model.state_dict()"
        )
    name, state = max(candidates.items(), key=lambda item: len(item[1]))
    entry = f" (entry {name!r})" if name else ""
    raise ValueError(
        f"weights: expected a state dict in {path.name} that fits {kind}, got one{entry} with "
        f"{'; '.join(target.misfits(state))}; do use the factory and arguments the weights were "
        f"made with"
    )
