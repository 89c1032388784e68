"""`ladle serve`: the command line, signals and logging around a Server."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from ladle.server.config import Config
from ladle.server.flags import settings
from ladle.server.monitoring import console, tracing

if TYPE_CHECKING:
    from ladle.server.server import Server

logger = logging.getLogger(__name__)

# What sending the last spans may take, after the grace.
_FLUSH_S = 2.0
# How late a signal may be noticed.
_LOOK_S = 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C, and end the process; return only the code of bad settings."""
    console.open_standard_streams()
    return serve(settings(argv))


def serve(given: Mapping[str, Any]) -> int:
    """Serve what `given`, arguments of Config, asks for; as `main`."""
    try:
        config = Config(**given)
    except ValueError as error:
        console.complain(str(error))
        return 2
    log_format = config.log_format
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
    events: SimpleQueue[_Event] = SimpleQueue()
    signals = _Signals(events, log_format)
    starting = _Starting(config, events, log_format)
    starting.begin()
    event = _next(events)
    if event is _Event.UP:
        event = _next(events)
    if starting.missing is not None:
        raise starting.missing
    if event is _Event.FAILED:
        return _leave(1)
    console.say("stopping", log_format=log_format)
    server = starting.opened_server(config.drain_grace_seconds)
    if server is not None:
        server.stop(lame_duck=signals.first is not signal.SIGINT)
    tracing.flush(_FLUSH_S)
    return _leave(0)


class _Event(Enum):
    """What the main thread waits for."""

    UP = auto()
    """The server takes requests, and its models are up or have failed."""
    FAILED = auto()
    """The server can't start, and why has been said."""
    SIGNAL = auto()


def _next(events: SimpleQueue[_Event]) -> _Event:
    # A signal that comes in the moment before the thread falls asleep does not wake it.
    while True:
        try:
            return events.get(timeout=_LOOK_S)
        except Empty:
            continue


class _Starting:
    """Makes and opens the server in a thread of its own, and waits there for its models.

    The main thread is left to signals: Python runs handlers of signals there, between any two
    instructions, and an exception out of one may end a wait for a lock without the lock.
    """

    def __init__(self, config: Config, events: SimpleQueue[_Event], log_format: str) -> None:
        self._config = config
        self._events = events
        self._log_format = log_format
        self.missing: ModuleNotFoundError | None = None
        """Set if the start failed because a package is not installed."""
        self._server: Server | None = None
        self._ended_opening = threading.Event()

    def begin(self) -> None:
        """Start the thread; an event says how the start ended."""
        threading.Thread(target=self._run, name="start", daemon=True).start()

    def opened_server(self, timeout_s: float) -> Server | None:
        """Return the server once it takes requests; None if it does not within the time."""
        if self._config.wait_for_models:
            timeout_s = 0.0  # it may load for minutes, and nobody can have asked it
        return self._server if self._ended_opening.wait(timeout_s) else None

    def _run(self) -> None:
        try:
            ended = self._start()
        except ModuleNotFoundError as error:
            self.missing = error
            ended = _Event.FAILED
        except BaseException:
            logger.exception("the server failed to start")
            ended = _Event.FAILED
        self._ended_opening.set()
        self._events.put(ended)

    def _start(self) -> _Event:
        from ladle.server.server import Server
        from ladle.server.transport.addresses import AddressInUse
        from ladle.server.wiring.startup import StartupError

        try:
            server = Server(self._config)
            server.open()
            self._server = server
            self._ended_opening.set()
            for address in server.addresses:
                console.say(_listening(address), log_format=self._log_format)
            server.wait_for_models()
        except (StartupError, AddressInUse) as error:
            console.complain(str(error), log_format=self._log_format)
            return _Event.FAILED
        return _Event.UP


class _Signals:
    """The first SIGTERM or Ctrl-C is an event, the second ends the process at once."""

    def __init__(self, events: SimpleQueue[_Event], log_format: str) -> None:
        self.first: signal.Signals | None = None
        self._events = events
        self._log_format = log_format
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._received)

    def _received(self, number: int, _: object) -> None:
        if self.first is not None:
            console.say("stopping at once", log_format=self._log_format)
            _leave(0)
        self.first = signal.Signals(number)
        self._events.put(_Event.SIGNAL)  # SimpleQueue may be used in handlers of signals


def _listening(address: str) -> str:
    """Say what an address is for: `0.0.0.0:8500`, `http://0.0.0.0:8501`, `unix:/path`."""
    scheme, separator, at = address.partition("://")
    if not separator:
        return f"listening on {address} (gRPC)"
    page = f"{scheme}://localhost:{at.rpartition(':')[2]}/"
    return f"listening on {address} (HTTP; status page: {page})"


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
