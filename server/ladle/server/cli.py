"""`ladle serve`: the command line, signals and logging around a Server."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from ladle.server.config import Config

_EXAMPLE = """\
The flags are tensorflow_model_server's, and so is the folder layout: a model's base path
holds one folder for each version, named by its number. The highest is served, and a new
one takes over as soon as it is there.

example:
  ladle export models/digits --data digits
  ladle serve --port=8500 --model_name=digits --model_base_path=models/digits
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the process's exit code."""
    arguments = parser().parse_args(argv)
    try:
        config = Config(**vars(arguments))
    except ValueError as error:
        return _fail(str(error), code=2)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname).1s %(name)s %(message)s",
        stream=sys.stderr,
    )
    _quiet_tensorflow()
    from ladle.server.server import Server, StartupError
    from ladle.server.transport.grpcio import AddressInUse

    stop_asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop_asked.set())
    try:
        server = Server(config)
        server.start()
    except (StartupError, AddressInUse) as error:
        return _fail(str(error), code=1)
    for address in server.addresses:
        print(f"ladle: listening on {address}", flush=True)
    stop_asked.wait()
    print("ladle: stopping", flush=True)
    server.stop()
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of `ladle serve`, built from Config's fields."""
    built = argparse.ArgumentParser(
        prog="ladle serve",
        description="Serve a TensorFlow SavedModel over gRPC, as tensorflow_model_server does.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for field in dataclasses.fields(Config):
        default = field.default
        shown = f"{default:g}" if isinstance(default, float) else str(default).lower()
        options: dict[str, Any] = {
            "default": default,
            "help": field.metadata["help"] + (f" (default {shown})" if default != "" else ""),
        }
        if field.name == "port":
            options |= {"type": _port, "metavar": "PORT"}
        elif isinstance(default, bool):
            options |= {"type": _boolean, "nargs": "?", "const": True, "metavar": "true|false"}
        else:
            options |= {"type": type(default), "metavar": type(default).__name__.upper()}
        built.add_argument(f"--{field.name}", **options)
    return built


def _port(text: str) -> int | None:
    return None if text == "auto" else int(text)


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1"):
        return True
    if text.lower() in ("false", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")


def _quiet_tensorflow() -> None:
    """Leave TensorFlow's warnings and errors, but not its greetings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _fail(message: str, code: int) -> int:
    print(f"ladle serve: {message}", file=sys.stderr)
    return code
