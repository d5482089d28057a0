"""Options of a command from a TOML file: the same names, and what stands on the command line wins.

    k = 2
    unit = "sentence"
    max-new-tokens = 60
    set = ["budget=60"]

A repeatable option is a list, or a table (`[set]`, then `budget = 60`). Paths are relative to the current folder, as on
the command line.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from datetime import date, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jopa.errors import InputFileError, SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXCLUDED_OPTIONS = {"config", "debug", "help"}
"""Options that a file cannot set."""


def read_config(path: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a configuration file by the names of the command's parameters.

    Args:
        path: a TOML file.
        parameters: the command's own parameters, each under its option's name without the dashes before it.

    Raises:
        InputFileError: the file cannot be read or is no TOML.
        SettingError: it names an option that the command has not, or gives one a value of the wrong kind.
    """
    try:
        record = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte order mark
    except OSError as error:
        raise InputFileError(f"cannot read '{path}': {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputFileError(f"'{path}' is no TOML: {error}") from error
    found = {}
    for name, value in record.items():
        option = name.replace("_", "-")
        if option not in parameters:
            near = difflib.get_close_matches(option, parameters, 1)
            hint = f"did you mean '{near[0]}'?" if near else "see 'jopa explain --help'"
            raise SettingError(f"'{path}' names '{name}', which is no option: {hint}")
        parameter = parameters[option]
        found[parameter.name] = _value(value, parameter, f"'{path}', {name}")
    return found


def _value(value: Any, parameter: Any, what: str) -> Any:
    """A TOML value as the command line would give it."""
    if isinstance(value, dict) and parameter.multiple:
        return [f"{name}={_text(each)}" for name, each in value.items()]
    if isinstance(value, list) != bool(parameter.multiple) or isinstance(value, dict):
        raise SettingError(f"{what}: expected {'a list of texts' if parameter.multiple else 'one value'}")
    is_flag = bool(getattr(parameter, "is_flag", False))
    if is_flag != isinstance(value, bool):
        raise SettingError(f"{what}: expected {'true or false' if is_flag else 'a value, not true or false'}")
    return [str(each) for each in value] if isinstance(value, list) else value if is_flag else str(value)


def _text(value: Any) -> str:
    """A value as `NAME=VALUE` has it: JSON, or a text; dates and times, which JSON does not allow, are texts."""
    if isinstance(value, str | date | time):
        return str(value)
    return json.dumps(value, default=str)


def _apply(context: typer.Context, value: Path | None) -> Path | None:
    """Take the file's values as the defaults of the command's options."""
    if value is not None:
        options = {
            name.lstrip("-"): parameter
            for parameter in context.command.params
            for name in parameter.opts
            if name.startswith("--") and name.lstrip("-") not in _EXCLUDED_OPTIONS
        }
        context.default_map = {**(context.default_map or {}), **read_config(value, options)}
    return value


Config = Annotated[
    Path | None,
    typer.Option(
        help="A TOML file of options under the same names; the command line wins.",
        callback=_apply,
        is_eager=True,
        show_default=False,
    ),
]


def given(context: typer.Context, name: str) -> bool:
    """Whether the user gave a parameter on the command line itself."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def first_given(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of which the user may give one: where the command line gives any, those of the file are left out."""
    on_line = [name for name in values if given(context, name)]
    return {name: value if not on_line or name in on_line else None for name, value in values.items()}
