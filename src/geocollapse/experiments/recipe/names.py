"""Names of a recipe that become folders, files and headings, and the keys of its claims."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

from geocollapse.experiments.recipe.problems import nearest
from geocollapse.experiments.recipe.settings import known_keys

_MOST_BYTES = 100  # a file name has at most 255, with the kind of the figure and its ending
_REFUSED = frozenset('/\\:*?"<>|$')  # folders, the names that Windows refuses, formulas in a figure

# The pairs of measures whose correlation may have an expected sign; gc is that of the embedding.
PAIRS = (
    *("gc_gcol", "gc_nc", "gc_target_nc", "gc_accuracy"),
    *("logits_gc_gap", "logits_gc_excess_risk", "logits_gc_test_loss", "logits_gc_test_error"),
    *("margin_complexity_gap", "margin_complexity_excess_risk"),
)


def check_name(key: str, name: str) -> None:
    """Refuse a name that cannot be part of a file name, before anything is trained.

    Args:
        key: of the recipe: `name`, `sweeps` or `presets`.
        name: what is to become a file name.

    Raises:
        ValueError: an empty or too long name, one that begins or ends with a dot or a space, or one
            with a character that file systems or figures take for something else.
    """
    refused = sorted({letter for letter in name if letter in _REFUSED or not letter.isprintable()})
    size = len(name.encode("utf-8", errors="replace"))
    if refused:
        got = f"{_short(name)} with {refused[0]!r}"
    elif not 1 <= size <= _MOST_BYTES:
        got = f"{_short(name)} of {size} bytes"
    elif name.strip(" .") != name:
        got = f"{_short(name)}, which begins or ends with a dot or a space"
    else:
        return
    raise ValueError(
        f"recipe: {key}: expected a name of 1 to {_MOST_BYTES} bytes that a file can have, got "
        f"{got}; do letters, digits, - and _"
    )


def check_signs(keys: Iterable[str], run_class: type[BaseModel]) -> None:
    """Refuse an expected sign of anything but a pair of measures or a key of a run.

    Args:
        keys: of `claims.expected_signs`.
        run_class: the configuration of a run.

    Raises:
        ValueError: an unknown key; the nearest known one is named.
    """
    known = [*PAIRS, *known_keys(run_class)]
    for key in keys:
        if key not in known and not key.startswith("model.args."):
            raise ValueError(
                f"recipe: claims.expected_signs.{key}: unknown key; do {nearest(key, known)}"
            )


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:40]}...")
