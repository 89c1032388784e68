"""`ladle serve`: the command line, signals and logging around a Server."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence
from typing import NoReturn

from ladle.server.config import Config
from ladle.server.flags import parser
from ladle.server.monitoring import console, tracing

logger = logging.getLogger(__name__)

# What sending the last spans may take, after the grace.
_FLUSH_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C, and end the process; return only the code of bad settings."""
    console.open_standard_streams()
    arguments = parser(prog="ladle serve").parse_args(argv)
    log_format = arguments.log_format
    try:
        config = Config(**vars(arguments))
    except ValueError as error:
        console.complain(str(error))
        return 2
    console.set_up_log(log_format)
    try:
        tracing.configure_from_environment()
    except tracing.TracingError as error:
        console.complain(str(error), log_format=log_format)
        return 2
    _quiet_tensorflow()
    _quiet_grpc()
    for name, reason in config.without_effect.items():
        logger.warning("--%s does nothing: %s", name, reason)
    from ladle.server.server import Server
    from ladle.server.transport.addresses import AddressInUse
    from ladle.server.wiring.startup import StartupError

    signals = _Signals(log_format)
    server: Server | None = None
    try:
        server = Server(config)
        server.open()
        for address in server.addresses:
            console.say(f"listening on {address}", log_format=log_format)
        server.wait_for_models()
        signals.wait()
    except (StartupError, AddressInUse) as error:
        console.complain(str(error), log_format=log_format)
        return _leave(1)
    except _Stop:
        console.say("stopping", log_format=log_format)
    if server is not None:
        server.stop(lame_duck=signals.first is not signal.SIGINT)
    tracing.flush(_FLUSH_S)
    return _leave(0)


class _Stop(BaseException):
    """The first signal has come; raised in the main thread, whatever it waits for."""


class _Signals:
    """The first SIGTERM or Ctrl-C interrupts the main thread, the second ends the process."""

    def __init__(self, log_format: str) -> None:
        self.first: signal.Signals | None = None
        self._log_format = log_format
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._received)

    def wait(self) -> None:
        """Block until the first has come.

        Raises:
            _Stop: always.
        """
        # Raised where exceptions are ignored, as in a destructor, _Stop was lost.
        if self.first is not None:
            raise _Stop
        threading.Event().wait()

    def _received(self, number: int, _: object) -> None:
        if self.first is not None:
            console.say("stopping at once", log_format=self._log_format)
            _leave(0)
        self.first = signal.Signals(number)
        raise _Stop


def _leave(code: int) -> NoReturn:
    """End the process now.

    A thread that runs a model can't be stopped. Python's own way out kills threads that are inside
    gRPC or TensorFlow by unwinding their C++, and that aborts the process.
    """
    console.flush()
    os._exit(code)


def _quiet_tensorflow() -> None:
    """Leave TensorFlow's warnings and errors, but not its greetings."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


def _quiet_grpc() -> None:
    """Keep gRPC's own lines from the log: callers could fill it with them."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
