"""Commands made from functions that take arguments and groups of options and give an Answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, TypeVar, get_type_hints

import typer

from geocollapse.cli.answer import Answer, Display, show
from geocollapse.cli.launch import joined, speaks
from geocollapse.cli.output import stdout_kept_clean
from geocollapse.cli.wording import named_as_options

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_T = TypeVar("_T")


def add_command(app: typer.Typer, function: Callable[..., Answer]) -> None:
    """Register ``function`` under its own name, with its docstring as the help.

    A parameter whose type is a dataclass becomes one option for each of its fields; every command
    has the options of ``Display``. While the command works, what libraries, model files and their
    subprocesses print goes to stderr: stdout carries the result alone.
    """
    hints = get_type_hints(function, include_extras=True)
    hints.pop("return")
    groups = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }
    parameters = [*_parameters(function, hints), *_fields(Display), _json_schema(function.__name__)]

    def run(**values: object) -> int:
        arguments = {name: values[name] for name in hints if name not in groups}
        options = {name: _group(kind, values) for name, kind in groups.items()}
        display = _group(Display, values)
        with joined(function.__name__, getattr(options.get("machine"), "device", "cpu")):
            with stdout_kept_clean(), named_as_options(values):
                answer = function(**arguments, **options)
            if speaks():
                show(answer, display)
        return 1 if answer.failed else 0

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command(function.__name__, help=inspect.getdoc(function))(run)


def _parameters(function: Callable[..., Answer], hints: Mapping[str, object]) -> list[Parameter]:
    """The arguments of ``function``, then the fields of its groups of options without Display."""
    signature = inspect.signature(function)
    own = [name for name, hint in hints.items() if not is_dataclass(hint)]
    parameters = [_keyword(name, hints[name], signature.parameters[name].default) for name in own]
    for hint in hints.values():
        if isinstance(hint, type) and is_dataclass(hint) and hint is not Display:
            parameters += _fields(hint)
    return parameters


def _fields(kind: type[DataclassInstance]) -> list[Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    defaults = {
        field.name: Parameter.empty if field.default is MISSING else field.default
        for field in fields(kind)
    }
    return [_keyword(name, hints[name], default) for name, default in defaults.items()]


def _keyword(name: str, annotation: object, default: object) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _group(kind: type[_T], values: Mapping[str, object]) -> _T:
    """The dataclass ``kind`` with its fields from ``values``."""
    make: Callable[..., _T] = kind
    return make(**{name: values[name] for name in inspect.signature(kind).parameters})


def _json_schema(command: str) -> Parameter:
    """The option ``--json-schema``, which prints the JSON Schema of ``--json`` and ends."""

    def print_schema(asked: bool) -> None:
        if asked:
            from geocollapse.cli.schemas import schema_text

            print(schema_text(command))
            raise typer.Exit

    option = typer.Option(
        "--json-schema", is_eager=True, callback=print_schema, help="Print the schema of --json."
    )
    return _keyword("json_schema", Annotated[bool, option], False)
