"""A function of arguments and groups of options that gives an Answer, made into a command that
prints it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature
from typing import Annotated, Any, get_type_hints

import typer

from geocollapse.cli.answer import Answer, Display, show
from geocollapse.cli.launch import joined, speaks


def add_command(app: typer.Typer, function: Callable[..., Answer]) -> None:
    """Register ``function`` under its own name, with its docstring as the help.

    A parameter whose type is a dataclass of options becomes one option a field; every command has
    those of ``Display``. While the command works, what libraries and model files print goes to
    stderr: stdout carries the result alone.
    """
    hints = get_type_hints(function, include_extras=True)
    hints.pop("return")
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)} | {
        "display": Display
    }
    parameters = [*_parameters(function, hints), *_fields(Display), _json_schema(function.__name__)]

    def run(**values: Any) -> int:
        arguments = {name: values[name] for name in hints if name not in groups}
        options = {name: _group(kind, values) for name, kind in groups.items()}
        display = options["display"] if "display" in hints else options.pop("display")
        with joined(function.__name__, getattr(options.get("machine"), "device", "cpu")):
            with redirect_stdout(sys.stderr):
                answer = function(**arguments, **options)
            if speaks():
                show(answer, display)
        return 1 if answer.failed else 0

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(function.__name__, help=inspect.getdoc(function))(run)


def _parameters(function: Callable[..., Answer], hints: Mapping[str, Any]) -> list[Parameter]:
    """The command line of ``function``: its own arguments, then the fields of its groups but
    Display.
    """
    signature = inspect.signature(function)
    own = [name for name, hint in hints.items() if not is_dataclass(hint)]
    parameters = [_keyword(name, hints[name], signature.parameters[name].default) for name in own]
    for hint in hints.values():
        parameters += _fields(hint) if is_dataclass(hint) and hint is not Display else []
    return parameters


def _fields(kind: Any) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    defaults = {
        field.name: Parameter.empty if field.default is MISSING else field.default
        for field in fields(kind)
    }
    return [_keyword(name, hints[name], default) for name, default in defaults.items()]


def _keyword(name: str, annotation: Any, default: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _group(kind: Any, values: Mapping[str, Any]) -> Any:
    return kind(**{field.name: values[field.name] for field in fields(kind)})


def _json_schema(command: str) -> Parameter:
    """``--json-schema``: print the JSON Schema of what ``--json`` prints, and end."""

    def print_schema(asked: bool) -> None:
        if asked:
            from geocollapse.cli.schemas import schema_text

            print(schema_text(command))
            raise typer.Exit

    option = typer.Option(
        "--json-schema", is_eager=True, callback=print_schema, help="Print the schema of --json."
    )
    return _keyword("json_schema", Annotated[bool, option], False)
