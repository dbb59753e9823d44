"""A description of every key of the JSON, from docstrings and from the list of measures."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from geocollapse.bounds import NearestMeanBound
from geocollapse.data import DataSource
from geocollapse.estimate import Estimate
from geocollapse.measures import MEASURES, Measure
from geocollapse.papers.verdict import Verdict

# the class with the attributes of a JSON object, where they are described
_ATTRIBUTES_OF: Mapping[str, type] = {
    "BoundDict": NearestMeanBound,
    "EstimateDict": Estimate,
    "IntervalDict": Estimate,
    "SourceDict": DataSource,
    "VerdictDict": Verdict,
}
# what precedes the keys of a JSON object in the names of measures
_MEASURES_OF: Mapping[str, str] = {
    "MeasurementDict": "",
    "LabelFreeDict": "label_free.",
    "PoincareDict": "poincare_ratio.",
}
_ENTRY = re.compile(r"    (\w+): (.*)")


class Described(GenerateJsonSchema):
    """JSON Schemas in which each property of a typed dictionary has a description."""

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        """The schema of a typed dictionary, with a description of each property."""
        found = super().typed_dict_schema(schema)
        texts = descriptions(schema["cls"]) if "cls" in schema else {}
        for name, value in found.get("properties", {}).items():
            if name in texts:
                value["description"] = texts[name]
        return found


def descriptions(kind: type) -> dict[str, str]:
    """A sentence for each key of a typed dictionary, its own before those of other classes."""
    texts: dict[str, str] = {}
    name = kind.__name__
    if name in _MEASURES_OF:
        start = _MEASURES_OF[name]
        texts |= {
            key.removeprefix(start): _about(measure)
            for key, measure in MEASURES.items()
            if key.startswith(start)
        }
    if name in _ATTRIBUTES_OF:
        texts |= attributes(_ATTRIBUTES_OF[name])
    for parent in getattr(kind, "__orig_bases__", ()):
        if isinstance(parent, type):
            texts |= descriptions(parent)
    return texts | attributes(kind)


def attributes(kind: type) -> dict[str, str]:
    """The entries under `Attributes:` in the docstring of a class, each on one line.

    Examples:
        >>> attributes(Verdict)["p"]
        'one-sided p on the expected side.'
    """
    lines = inspect.cleandoc(kind.__doc__ or "").splitlines()
    if "Attributes:" not in lines:
        return {}
    texts: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Attributes:") + 1 :]:
        entry = _ENTRY.fullmatch(line)
        if entry:
            name = entry[1]
            texts[name] = entry[2]
        elif line.startswith(" " * 8) and name:
            texts[name] += f" {line.strip()}"
        elif line.strip():
            break
    return texts


def _about(measure: Measure) -> str:
    """The full name of a measure, its unit, and when it misleads."""
    return f"{measure.full_name} ({measure.unit}). {measure.caution}"
