"""The JSON Schema of every --json output, generated from its type."""

import json
import math

import jsonschema
import pytest

from geocollapse.cli import main
from geocollapse.cli.schemas import RESULTS, schema


@pytest.mark.parametrize("command", RESULTS)
def test_the_schema_is_a_valid_one_and_names_its_command(command):
    jsonschema.Draft202012Validator.check_schema(schema(command))
    assert schema(command)["title"] == f"geocollapse {command} --json"


@pytest.mark.parametrize("command", RESULTS)
def test_the_schema_is_printed(command, capsys):
    assert main([command, "--json-schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema(command)


def test_every_command_has_a_schema():
    from geocollapse.cli import _COMMANDS

    assert {function.__name__ for function in _COMMANDS} == set(RESULTS)


def test_a_missing_key_and_a_wrong_type_do_not_fit():
    from geocollapse.estimate import Estimate

    value = Estimate(1.0, 0.1, n_samples=3).to_dict()
    estimate = schema("measure")["$defs"]["EstimateDict"]
    jsonschema.validate(json.loads(json.dumps(value)), estimate)
    for broken in (
        {**value, "value": "one"},
        {key: item for key, item in value.items() if key != "stderr"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(json.dumps(broken)), estimate)


def test_an_undefined_number_is_null():
    from geocollapse.estimate import Estimate

    assert Estimate(math.nan, math.inf, n_samples=1).to_dict()["value"] is None


def undescribed(node, path):
    """The properties without a description in a schema and in all that it defines."""
    if isinstance(node, list):
        for item in node:
            yield from undescribed(item, path)
    if isinstance(node, dict):
        for name, value in node.get("properties", {}).items():
            if not value.get("description", "").strip():
                yield f"{path}.{name}"
        for key, value in node.items():
            yield from undescribed(
                value, key if path == "$defs" else path if key != "$defs" else key
            )


@pytest.mark.parametrize("command", RESULTS)
def test_every_property_has_a_description(command):
    """Under `Attributes:` in the docstring of its type, or as a measure."""
    assert list(undescribed(schema(command), command)) == []


def test_descriptions_come_from_docstrings_and_measures():
    properties = schema("measure")["$defs"]["MeasurementDict"]["properties"]
    assert properties["n_samples"]["description"] == "number of examples."
    assert properties["cdnv"]["description"].startswith(
        "neural collapse NC (CDNV, no unit). Too sm"
    )
