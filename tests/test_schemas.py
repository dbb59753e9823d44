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
