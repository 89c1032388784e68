"""Make command-line options of a dataclass's fields, so that each is written once.

A field's metadata tells: `help`; `type`, from text to its value, int unless given; `metavar`,
`choices`; `flag`, where it is not `--name`. A bool becomes `--name` or `--no-name`, whichever
changes it; a tuple's option may be given again and again.
"""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from typing import Any, NoReturn, TypeVar

Options = TypeVar("Options")


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, where argparse would print the usage as well."""

    def error(self, message: str) -> NoReturn:
        """Exit with that line."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_options(parser: argparse.ArgumentParser, options: type[Any]) -> None:
    """Give `parser` an option for each field of the dataclass `options`."""
    group = parser.add_argument_group(_title(options))
    for field in fields(options):
        group.add_argument(_flag(field), dest=field.name, default=field.default, **_kind(field))


def options_from(args: argparse.Namespace, options: type[Options]) -> Options:
    """Return the dataclass made of the parsed `args`.

    Raises:
        ValueError: A value is out of its range.
    """
    values = {field.name: getattr(args, field.name) for field in fields(options)}  # type: ignore[arg-type]
    return options(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _title(options: type[Any]) -> str:
    return {"TrainingOptions": "training", "Requirements": "checks"}.get(
        options.__name__, options.__name__
    )


def _flag(field: Field[Any]) -> str:
    if "flag" in field.metadata:
        return str(field.metadata["flag"])
    name = field.name.replace("_", "-")
    return f"--no-{name}" if field.default is True else f"--{name}"


def _kind(field: Field[Any]) -> dict[str, Any]:
    told = dict(field.metadata)
    shown = told.pop("help")
    told.pop("flag", None)
    if isinstance(field.default, bool):
        return {"action": "store_false" if field.default else "store_true", "help": shown}
    if isinstance(field.default, tuple):
        return {"action": _Append, "type": str, "help": shown} | told
    if field.default not in (None, ""):
        shown += f" (default: {field.default})"
    return {"type": int, "help": shown} | ({} if "choices" in told else {"metavar": "N"}) | told


class _Append(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add to what was given before."""
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), values))
