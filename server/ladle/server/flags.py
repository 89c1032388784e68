"""The command line of `ladle serve`, built from Config's fields: each flag is written once."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ladle.cli.arguments import Parser
from ladle.server.config import Config
from ladle.store.url import is_url, parse_url

_EXAMPLE = """\
The flags are tensorflow_model_server's, and so is the folder layout: a model's base path
holds one folder for each version, named by its number. The highest is served, and a new
one takes over as soon as it is there and whole.

example:
  ladle export models/digits --data digits
  ladle serve models/digits
which is short for
  ladle serve --port=8500 --rest_api_port=8501 --model_name=digits --model_base_path=models/digits
"""
# The first group of --help. Every other flag is in the section that began last before it.
_MOST_NEEDED = (
    "port",
    "rest_api_port",
    "model_name",
    "model_base_path",
    "model_config_file",
    "ssl_config_file",
    "auth_tokens_file",
    "access_log",
    "drain_grace_seconds",
)
# By the first flag of each.
_SECTIONS = {
    "port": "where to listen",
    "monitoring_config_file": "metrics and logs",
    "max_request_bytes": "how much is taken",
    "model_name": "what to serve",
    "aspired_version_policy": "how versions come and go",
    "max_loaded_models": "how many models are loaded",
    "enable_batching": "how requests run",
    "wait_for_models": "how it starts",
    "enable_grpc_healthcheck_service": "without effect",
}
# The HTTP port beside a folder; it is the one that TensorFlow Serving's image has.
_HTTP_PORT = 8501
_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.tflite")
_MOST_NAMED = 3


def settings(argv: Sequence[str] | None, prog: str = "ladle serve") -> dict[str, Any]:
    """Return what a command line gives, as arguments of Config; only what is given is there.

    A switch is turned on by `--x`, `--x=true` or `--x true`. A folder stands for the flags that
    serve it. An unknown flag, or a folder that can't be served, ends the process with status 2.

    Args:
        argv: the arguments; None takes the process's.
        prog: what messages call the command.
    """
    parser = _parser(prog)
    given = vars(parser.parse_args(argv))
    folder = given.pop("folder")
    if folder is None:
        return given
    for name in ("model_base_path", "model_config_file", "model_repository", "model_root"):
        if name in given:
            shown = "a URL" if is_url(folder) else folder
            parser.error(f"expected a folder or --{name}, got {shown} and --{name}")
    if problem := _problem(folder):
        parser.error(problem)
    if is_url(folder):
        defaults = {"model_name": parse_url(folder).name, "rest_api_port": _HTTP_PORT}
        return defaults | given | {"model_base_path": folder}
    path = Path(folder)
    name = path.resolve().name if path.name in ("", "..") else path.name  # a link keeps its own
    defaults = {"model_name": name, "rest_api_port": _HTTP_PORT}
    return defaults | given | {"model_base_path": folder}


def _problem(given: str) -> str:
    """Say why a folder is no base path of one model; empty if it may be one."""
    if is_url(given):
        try:
            parse_url(given)
        except ValueError as error:
            return str(error)
        return ""
    folder = Path(given)
    try:
        if not folder.is_dir():
            return (
                f"expected a folder with numbered versions, got {folder}: there is no such folder"
            )
        if any((folder / name).is_file() for name in _MODEL_FILES):
            return _problem_of_model(folder.resolve())
        if _has_versions(folder):
            return ""
        models = sorted(c for c in folder.iterdir() if c.is_dir() and _has_versions(c))
    except OSError as error:
        return f"expected a folder that can be read, got {folder}: {error.strerror}"
    if not models:
        return ""  # the server says what it expects there
    shown = ", ".join(map(str, models[:_MOST_NAMED]))
    more = f" and {len(models) - _MOST_NAMED} more" if len(models) > _MOST_NAMED else ""
    return (
        f"{folder} holds models, and no versions: expected one of {shown}{more}; "
        "--model_config_file serves several, --model_root all of a folder"
    )


def _problem_of_model(folder: Path) -> str:
    if folder.name.isdecimal():
        return f"{folder} is one version; expected the folder that holds it, {folder.parent}"
    return (
        f"{folder} is a SavedModel itself; expected a folder with numbered versions: "
        f"move its files into {folder}/1"
    )


def _has_versions(folder: Path) -> bool:
    return any(child.name.isdecimal() and child.is_dir() for child in folder.iterdir())


def _parser(prog: str) -> argparse.ArgumentParser:
    built = Parser(
        prog=prog,
        usage=f"{prog} [FOLDER] [--flag=value ...]",
        description="Serve TensorFlow SavedModels over gRPC and HTTP, "
        "as tensorflow_model_server does.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    built.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="a model's base path, or its URL: its name is the model's, gRPC is on port 8500, and "
        f"HTTP with the status page on {_HTTP_PORT}; flags change each of them",
    )
    built.add_argument(
        "--version",
        nargs=0,
        action=_Version,
        default=argparse.SUPPRESS,
        help="print it and what serves gRPC, and exit",
    )
    for title, fields in _groups():
        group = built.add_argument_group(title)
        for field in fields:
            group.add_argument(f"--{field.name}", **_options(field))
    return built


class _Version(argparse.Action):
    """Prints the version, and the transport that would serve, and exits."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object
    ) -> None:
        # Imported late: it imports the native transport.
        from ladle.server.wiring.choice import Unavailable, find

        try:
            choice = find(getattr(namespace, "transport", Config.transport))
        except Unavailable as error:
            parser.error(str(error))
        print(f"ladle {_version()}, transport {choice.name}: {choice.why}")
        parser.exit()


def _groups() -> Iterator[tuple[str, list[dataclasses.Field[Any]]]]:
    """Yield the groups of flags, as --help shows them."""
    by_name = {field.name: field for field in dataclasses.fields(Config)}
    yield "what most servers need", [by_name[name] for name in _MOST_NEEDED]
    sections: dict[str, list[dataclasses.Field[Any]]] = {}
    title = ""
    for name, field in by_name.items():
        title = _SECTIONS.get(name, title)
        if name not in _MOST_NEEDED:
            sections.setdefault(title, []).append(field)
    yield from sections.items()


def _options(field: dataclasses.Field[Any]) -> dict[str, Any]:
    default = field.default
    shown = f"{default:g}" if isinstance(default, float) else str(default).lower()
    options: dict[str, Any] = {
        "default": argparse.SUPPRESS,  # Config has it
        "help": field.metadata["help"]
        + (f" (default {shown})" if default not in ("", None) else ""),
    }
    if field.name in ("port", "rest_api_port"):
        return options | {"type": port, "metavar": "PORT"}
    if isinstance(default, bool) or field.type == "bool | None":
        return options | {"type": boolean, "nargs": "?", "const": True, "metavar": "true|false"}
    return options | {"type": type(default), "metavar": type(default).__name__.upper()}


def port(text: str) -> int | None:
    """Return the port that an argument names; None for a free one."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or auto, got {text!r}") from None


def boolean(text: str) -> bool:
    """Return what an argument of a switch says."""
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
