"""The command line of `ladle serve`, built from Config's fields: each flag is written once."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, NoReturn

from ladle.server.config import Config

_EXAMPLE = """\
The flags are tensorflow_model_server's, and so is the folder layout: a model's base path
holds one folder for each version, named by its number. The highest is served, and a new
one takes over as soon as it is there and whole.

example:
  ladle export models/digits --data digits
  ladle serve --port=8500 --model_name=digits --model_base_path=models/digits
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command `prog`; an unknown flag is an error.

    A switch is turned on by `--x`, `--x=true` or `--x true`.
    """
    built = _Parser(
        prog=prog,
        description="Serve TensorFlow SavedModels over gRPC, as tensorflow_model_server does.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for field in dataclasses.fields(Config):
        built.add_argument(f"--{field.name}", **_options(field))
    built.add_argument(
        "--version", action="version", version=f"ladle {_version()}", help="print it and exit"
    )
    return built


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with one line: the usage of so many flags would hide it."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _options(field: dataclasses.Field[Any]) -> dict[str, Any]:
    default = field.default
    shown = f"{default:g}" if isinstance(default, float) else str(default).lower()
    options: dict[str, Any] = {
        "default": default,
        "help": field.metadata["help"]
        + (f" (default {shown})" if default not in ("", None) else ""),
    }
    if field.name in ("port", "rest_api_port"):
        return options | {"type": _port, "metavar": "PORT"}
    if isinstance(default, bool) or field.type == "bool | None":
        return options | {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}
    return options | {"type": type(default), "metavar": type(default).__name__.upper()}


def _port(text: str) -> int | None:
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got {text!r}") from None


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ladle")
    except PackageNotFoundError:
        return "(not installed; running from its sources)"
