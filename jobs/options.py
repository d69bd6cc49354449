"""Options: one typed dataclass per command, filled from a YAML file and from the command line, which wins."""

import argparse
import dataclasses
import types
from collections.abc import Sequence
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import yaml

from pipeline import storage
from pipeline.errors import ConfigError

T = TypeVar("T")


def option(default: Any = dataclasses.MISSING, *, help: str, positional: bool = False) -> Any:
    """Declares an option of a command; without a default it must be given."""
    metadata = {"help": help, "positional": positional}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def require_least(options: Any, *names: str, least: int = 1) -> None:
    """Refuses options below a bound; those that are not given are None.

    Raises:
        ConfigError: one is; it names the option as it is spelt, and its value.
    """
    for name in names:
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; `{self.prog} --help` lists the options")


def parse(options: type[T], command: str, arguments: Sequence[str]) -> T:
    """Returns a command's options from its arguments and the file that --config names.

    Raises:
        ConfigError: an unknown, missing or malformed option; those of the file are all named at once.
    """
    hints = get_type_hints(options)
    fields = {field.name: field for field in dataclasses.fields(cast(Any, options))}
    parser = _Parser(prog=f"handocc {command}", description=options.__doc__, allow_abbrev=False)
    for name, field in fields.items():
        parser.add_argument(*_flags(name, field), **_how(hints[name], field))
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="take options from this file; the command line wins"
    )
    given = vars(parser.parse_intermixed_args(list(arguments)))
    given = {name: value for name, value in given.items() if value is not None and value != []}
    config = given.pop("config", None)
    values = (from_file(config, options) if config else {}) | given
    missing = [
        _spelt(name, field)
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and name not in values
    ]
    if missing:
        raise ConfigError(f"needs {', '.join(missing)}; `handocc {command} --help` explains")
    return options(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _spelt(name: str, field: "dataclasses.Field[Any]") -> str:
    return name.upper() if field.metadata["positional"] else "--" + name.replace("_", "-")


def _flags(name: str, field: "dataclasses.Field[Any]") -> list[str]:
    return [name] if field.metadata["positional"] else ["--" + name.replace("_", "-")]


def _scalar(hint: Any) -> Any:
    """Returns the one type behind `X | None` and `tuple[X, ...]`."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(item for item in get_args(hint) if item is not type(None))
    return get_args(hint)[0] if get_origin(hint) is tuple else hint


def _how(hint: Any, field: "dataclasses.Field[Any]") -> dict[str, Any]:
    kind = _scalar(hint)
    text = field.metadata["help"]
    if field.default is dataclasses.MISSING:
        text += " (must be given)"
    elif field.default is not None and field.default is not False and field.default != ():
        text += f" (default: {field.default})"
    how: dict[str, Any] = {"help": text.replace("%", "%%"), "default": None}
    if kind is bool:
        # With --no-…, which takes back what the file says.
        return {**how, "action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        how["choices"] = get_args(kind)
    else:
        how["type"] = kind
    if get_origin(hint) is tuple:
        how["nargs"] = "*"
    elif field.metadata["positional"]:
        how["nargs"] = "?"
    if not field.metadata["positional"] and "choices" not in how:
        how["metavar"] = {int: "N", float: "X"}.get(kind, field.name.upper())
    return how


def from_file(uri: str, options: type) -> dict[str, Any]:
    """Returns the options of a command that a YAML file sets.

    Raises:
        ConfigError: it cannot be read, or holds what the command does not take.
    """
    hints = get_type_hints(options)
    try:
        content = yaml.safe_load(storage.read(uri))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--config {uri}: cannot be read as YAML ({' '.join(str(error).split())})"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {uri}: must hold `option: value` lines")
    values = {str(name).replace("-", "_"): value for name, value in content.items()}
    problems = [f"unknown option {name}" for name in sorted(values.keys() - hints.keys())]
    for name, value in values.items():
        if name in hints and value is not None:
            problem = _mismatch(hints[name], value)
            if problem:
                problems.append(f"{name} {problem}")
            elif _scalar(hints[name]) is float:
                values[name] = float(value)
    if problems:
        raise ConfigError(f"--config {uri}: {'; '.join(problems)}")
    return {name: value for name, value in values.items() if value is not None}


def _mismatch(hint: Any, value: Any) -> str | None:
    kind = _scalar(hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(item, kind) for item in value):
            return f"must be a list of {kind.__name__}, it is {value!r}"
        return None
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return None if value in choices else f"must be one of {', '.join(choices)}, it is {value!r}"
    accepted = (int, float) if kind is float else (kind,)
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        return f"must be a {kind.__name__}, it is {value!r}"
    return None
