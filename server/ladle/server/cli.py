"""`ladle serve`: the command line, signals and logging around a Server."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

from ladle.server.config import Config
from ladle.server.flags import parser

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the process's exit code."""
    arguments = parser(prog="ladle serve").parse_args(argv)
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
    for name, reason in config.without_effect.items():
        logger.warning("--%s does nothing: %s", name, reason)
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


def _quiet_tensorflow() -> None:
    """Leave TensorFlow's warnings and errors, but not its greetings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _fail(message: str, code: int) -> int:
    print(f"ladle serve: {message}", file=sys.stderr)
    return code
