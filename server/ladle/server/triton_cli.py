"""`ladle triton`: tritonserver's command line, for the same folder of models."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ladle.cli.arguments import Parser
from ladle.server import flags
from ladle.server.cli import serve
from ladle.server.monitoring import console

PROG = "ladle triton"

_DESCRIPTION = """\
Serve the SavedModels of a model repository as Triton lays it out: a folder for each model, in it
numbered versions, with the SavedModel in 1/model.savedmodel or in 1 itself, and perhaps a
config.pbtxt. The flags are tritonserver's; those of ladle serve may follow, such as --access_log=-.
"""
_EPILOG = """\
example:
  ladle triton --model-repository=/models --http-port=8000 --grpc-port=8001

The log names what means nothing here. docs/moving-from-triton.md has the differences.
"""

# Flags that are taken, and why each does nothing.
WITHOUT_EFFECT = {
    "allow-metrics": "metrics are on the HTTP port, at /monitoring/prometheus/metrics",
    "metrics-port": "metrics are on the HTTP port, at /monitoring/prometheus/metrics",
    "exit-on-error": "a model that can't be loaded leaves the others alone",
    "strict-model-config": "a config.pbtxt may be left out, and have any of its fields",
    "disable-auto-complete-config": "a config.pbtxt may be left out, and have any of its fields",
    "log-verbose": "the log has one level of detail",
    "log-info": "the log has one level of detail",
    "backend-directory": "TensorFlow is the only backend",
    "backend-config": "TensorFlow is the only backend",
    "pinned-memory-pool-byte-size": "memory is TensorFlow's",
    "cuda-memory-pool-byte-size": "memory is TensorFlow's",
    "http-thread-count": "connections over HTTP share one thread",
    "grpc-infer-allocation-pool-size": "memory is Python's",
}
_ANYWHERE = ("", "0.0.0.0", "::", "[::]")
_LARGEST_PORT = 65535
_MOST_SECONDS = 365 * 86400


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C, and end the process; return only the code of bad settings."""
    console.open_standard_streams()
    return serve(settings(argv))


def settings(argv: Sequence[str] | None) -> dict[str, Any]:
    """Return what a command line gives, as arguments of Config; a mistake ends the process.

    `argv` None takes the process's arguments.
    """
    parser = _parser()
    given, rest = parser.parse_known_args(argv)
    others = flags.settings(rest, PROG)
    if len(given.model_repository) != 1:
        parser.error("--model-repository: expected one folder, got several")
    if not given.model_repository[0]:
        parser.error("--model-repository: expected a folder, got an empty name")
    for name in ("http_address", "grpc_address"):
        if getattr(given, name) not in _ANYWHERE:
            parser.error(
                f"--{name.replace('_', '-')}: a port is opened on all interfaces; expected none "
                f"or 0.0.0.0, got {getattr(given, name)}"
            )
    for name, reason in WITHOUT_EFFECT.items():
        if getattr(given, name.replace("-", "_")) is not None:
            console.say(f"--{name} does nothing: {reason}")
    is_polled = given.model_control_mode == "poll"
    own = {
        "port": given.grpc_port,
        "rest_api_port": given.http_port if given.allow_http else 0,
        "model_repository": given.model_repository[0],
        "model_control_mode": given.model_control_mode,
        "load_model": ",".join(given.load_model),
        # What is there at the start is served, as it is; later folders count where it looks again.
        "file_system_poll_wait_seconds": given.repository_poll_secs if is_polled else 0.0,
        "strict_readiness": given.strict_readiness,
        "drain_grace_seconds": given.exit_timeout_secs,
    }
    return own | others


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=PROG,
        usage=f"{PROG} --model-repository=FOLDER [--flag=value ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--model-repository",
        "--model-store",
        action="append",
        required=True,
        metavar="FOLDER",
        help="the folder that holds the models' folders",
    )
    add("--http-port", type=_port, default=8000, metavar="PORT", help="(default 8000)")
    add("--grpc-port", type=_port, default=8001, metavar="PORT", help="(default 8001)")
    _switch(parser, "allow-http", "open the HTTP port")
    add("--http-address", default="", metavar="ADDRESS", help="0.0.0.0 is the only one")
    add("--grpc-address", default="", metavar="ADDRESS", help="0.0.0.0 is the only one")
    add(
        "--model-control-mode",
        choices=("none", "poll", "explicit"),
        default="none",
        help="none serves all models that are there at the start; poll looks for models and "
        "versions again and again; explicit serves those of --load-model, and what callers load "
        "(default none)",
    )
    add(
        "--load-model",
        action="append",
        default=[],
        metavar="NAME",
        help="with explicit, a model to load at the start; may be given again; * is all",
    )
    add(
        "--repository-poll-secs",
        type=_seconds,
        default=15.0,
        metavar="S",
        help="with poll, seconds between looks (default 15)",
    )
    _switch(
        parser,
        "strict-readiness",
        "ready means that every model serves; without it, that the server answers",
    )
    add(
        "--exit-timeout-secs",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="how long a stop waits for the requests under way (default 30)",
    )
    for name, reason in WITHOUT_EFFECT.items():
        add(f"--{name}", metavar="VALUE", nargs="?", const="", help=f"does nothing: {reason}")
    return parser


def _port(text: str) -> int | None:
    number = flags.port(text)
    if number is not None and not 0 <= number <= _LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"expected 0 to {_LARGEST_PORT} or auto, got {text}")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"expected 0 to {_MOST_SECONDS} seconds, got {text!r}")
    return seconds


def _switch(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(
        f"--{name}",
        type=flags.boolean,
        nargs="?",
        const=True,
        default=True,
        metavar="true|false",
        help=f"{text} (default true)",
    )
