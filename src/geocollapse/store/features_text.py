"""The JSON text of a features file: all that belongs to a layer beside its arrays.

The fields of version 1 are frozen. A later field is optional: a file without it takes its default,
and a geocollapse that does not know it ignores it with a note. A change of meaning needs a new
``VERSION``; files of older versions are read for ever.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from typing_extensions import TypedDict

from geocollapse._version import __version__
from geocollapse.complexity.means import EstimateSettings
from geocollapse.complexity.probing import Ending
from geocollapse.complexity.stopping import StoppingRule
from geocollapse.estimate import strict_json
from geocollapse.store.kept import Context, KeptLayer

VERSION = 1


class SettingsDict(TypedDict):
    """How the squared Jacobian norms were estimated."""

    estimator: str
    n_probes: int
    population: str
    sequential: bool


class FrozenFields(TypedDict):
    """The fields that every text has; see ``geocollapse.store.Context``."""

    version: int
    layer: str
    n_population: int
    class_counts: dict[str, float | None]  # null where the number is infinite
    is_stratified: bool
    settings: SettingsDict
    rule: dict[str, float | None]
    ending: Ending
    class_names: list[str] | None
    accuracy: float | None
    split: str | None
    lambda_max: float | None
    preprocessing: dict[str, object]
    provenance: dict[str, object]
    warnings: list[str]


class FeaturesText(FrozenFields, total=False):
    """The text of a features file: frozen and optional fields."""

    no_classifier: str | None  # the reason why the layer has no classifier


@dataclass(frozen=True)
class _Group:
    """The fields of the text itself, or of an object in it, whose name is the prefix."""

    prefix: str
    required: Collection[str]
    known: Collection[str]

    def missing(self, found: Mapping[str, object]) -> list[str]:
        return [self.prefix + name for name in self.required if name not in found]

    def unknown(self, found: Mapping[str, object]) -> list[str]:
        return [self.prefix + name for name in found if name not in self.known]


_GROUPS: Mapping[str, _Group] = {
    "": _Group("", FrozenFields.__annotations__, FeaturesText.__annotations__),
    "settings": _Group("settings.", SettingsDict.__annotations__, SettingsDict.__annotations__),
    "rule": _Group("rule.", (), [field.name for field in fields(StoppingRule)]),
}


def text_of(kept: KeptLayer, origin: Mapping[str, object]) -> str:
    """The text of a layer, with ``origin`` recorded beside its provenance."""
    context = kept.context
    shared = [name for name in FrozenFields.__annotations__ if name not in ("version", "layer")]
    about = {
        "version": VERSION,
        "layer": kept.layer,
        "no_classifier": kept.no_head or None,
        **{name: getattr(context, name) for name in shared},
        "settings": {k: getattr(context.settings, k) for k in SettingsDict.__annotations__},
        "rule": vars(context.rule),
        "provenance": {**context.provenance, **origin},
    }
    return json.dumps(strict_json(about), allow_nan=False)


def parsed(text: str, name: str) -> tuple[FeaturesText, tuple[str, ...]]:
    """The fields of a text, and a note on unknown ones.

    Args:
        text: as ``text_of`` of this or another version writes it.
        name: of the file, for errors.

    Raises:
        ValueError: a newer version, missing fields, or another text.
    """
    about = _object(text, name)
    missing: list[str] = []
    unknown: list[str] = []
    for part, group in _GROUPS.items():
        found = about.get(part) if part else about
        if isinstance(found, dict):
            missing += group.missing(found)
            unknown += group.unknown(found)
        else:
            missing.append(part)
    if missing:
        raise _unreadable(name, f"one without {', '.join(dict.fromkeys(missing))}")
    if not unknown:
        return cast("FeaturesText", about), ()
    note = (
        f"features: {', '.join(unknown)} of {name} ignored, which geocollapse {__version__} does "
        f"not know"
    )
    return cast("FeaturesText", about), (note,)


def described(context: Context, about: FeaturesText) -> Context:
    """``context`` with all that the text says."""
    settings: dict[str, Any] = {**about["settings"]}
    rule: dict[str, Any] = about["rule"]
    counts = about["class_counts"].items()
    return replace(
        context,
        n_population=about["n_population"],
        class_counts={int(label): math.inf if n is None else n for label, n in counts},
        is_stratified=about["is_stratified"],
        settings=EstimateSettings(**{k: settings[k] for k in SettingsDict.__annotations__}),
        rule=StoppingRule(**{k: value for k, value in rule.items() if k in _GROUPS["rule"].known}),
        ending=about["ending"],
        class_names=about["class_names"],
        accuracy=about["accuracy"],
        split=about["split"],
        lambda_max=about["lambda_max"],
        preprocessing=about["preprocessing"],
        provenance=about["provenance"],
        warnings=tuple(about["warnings"]),
    )


def _object(text: str, name: str) -> dict[str, object]:
    """The JSON object of a text of this version or an older one."""
    try:
        about = json.loads(text)
    except ValueError:
        about = None
    version = about.get("version") if isinstance(about, dict) else None
    if not isinstance(about, dict) or not isinstance(version, int) or version < 1:
        raise _unreadable(name, "another")
    if version > VERSION:
        raise ValueError(
            f"features: expected the text in {name} in version {VERSION} or older, got version "
            f"{version}, which a newer geocollapse wrote; do pip install --upgrade geocollapse, or "
            f"write the file again with geocollapse {__version__}"
        )
    return about


def _unreadable(name: str, got: str) -> ValueError:
    return ValueError(
        f"features: expected the text in {name} as version {VERSION} of geocollapse writes it, got "
        f"{got}; "
        f"do write the file again, or leave the text out"
    )
