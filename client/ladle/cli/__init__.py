"""The command `ladle`: hands its arguments to the part that the first of them names.

Answers `--help`, `--version` and mistakes by itself, without importing numpy, grpc or protobuf.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

_HELP = """\
usage: ladle COMMAND ...

Train TensorFlow models, publish them as numbered versions, and serve them over gRPC and
HTTP the way TensorFlow Serving does.

commands:
  bench      measure how many requests a served model answers, and how long they take
  export     train a classifier, check it, and publish it as the next version of a model
  health     ask whether a server serves
  models     list, show, compare, check, warm up, label, roll back, prune and report on versions
  serve      serve the newest version of a model over gRPC and HTTP
  predict    have a server predict the rows of files of any size, or print one prediction
  rollout    see whether the version on trial of a roll-out is good, at all servers
  triton     serve a folder of models as tritonserver does: its flags, ports and config.pbtxt

The whole way, from nothing to a prediction:

  pip install 'ladle[server,export]'
  ladle export models/digits --data digits
  ladle serve models/digits

and, while that runs, from Python anywhere (`pip install ladle` is enough there; `images` are
uint8, [batch, 8, 8], with pixels as they were in training):

  from ladle.client import Client

  with Client("localhost:8500") as client:
      print(client.predict("digits", images).top(k=1))

options:
  -h, --help    show this and exit; `ladle COMMAND --help` tells about one command
  --version     show ladle's version and exit
"""


class _Command(NamedTuple):
    module: str
    """Has `main(argv) -> exit status`."""
    extra: str
    """What has to be installed beside the client for it to run."""


COMMANDS = {
    "bench": _Command("ladle.bench.cli", "plots"),
    "export": _Command("ladle.export.cli", "export"),
    "health": _Command("ladle.client.health_cli", ""),
    "models": _Command("ladle.export.models.cli", "export"),
    "rollout": _Command("ladle.rollout.cli", ""),
    "serve": _Command("ladle.server.cli", "server"),
    "predict": _Command("ladle.batch.cli", "batch"),
    "triton": _Command("ladle.server.triton_cli", "server"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `ladle` with `argv`, by default the process's arguments; return the exit status.

    0 is success, 1 failure, 2 wrong usage and 130 an interruption; commands may have more.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _answer(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads the output any more. Python would fail with it again at its exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        return 0 if {"-h", "--help", "--version"} & {*arguments} else 1


def _answer(arguments: list[str]) -> int:
    if not arguments:
        print(_HELP, end="", file=sys.stderr)
        return 2
    name, *rest = arguments
    if name in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if name == "--version":
        print(f"ladle {_version()}")
        return 0
    command = COMMANDS.get(name)
    if command is None:
        expected = ", ".join(COMMANDS)
        from ladle.cli.arguments import closest

        near = closest(name, COMMANDS)
        advice = f'did you mean "ladle {near}"?' if near else "see ladle --help"
        return _fail(f'expected a command ({expected}), got "{name}"; {advice}', status=2)
    return _run(name, command, rest)


def serve() -> int:
    """Run `ladle serve` as `tensorflow_model_server`, with the process's arguments.

    As TensorFlow Serving does, it opens its ports once the models are there.
    """
    return main(["serve", "--wait_for_models=true", *sys.argv[1:]])


def _run(name: str, command: _Command, arguments: list[str]) -> int:
    try:
        run = import_module(command.module).main
        return int(run(arguments))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "ladle"):
            raise  # not a package left out, but a mistake in one of ours
        wanted = f"'ladle[{command.extra}]'" if command.extra else "ladle"
        return _fail(f"{name} needs the package {missing}: pip install {wanted}", status=1)
    except KeyboardInterrupt:
        return _fail(f"{name}: interrupted", status=130)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ladle")
    except PackageNotFoundError:
        return "(not installed; running from its sources)"


def _fail(reason: str, status: int) -> int:
    print(f"ladle: {reason}", file=sys.stderr)
    return status
