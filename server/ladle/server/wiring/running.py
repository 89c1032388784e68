"""Runs a Server in this process: from its start, in a thread, to the signal that stops it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol, TypeAlias

from ladle.server.config import Config
from ladle.server.monitoring import console

if TYPE_CHECKING:
    from ladle.server.server import Server

logger = logging.getLogger(__name__)

# What sending the last spans may take, after the grace.
_FLUSH_S = 2.0
# How long a stop waits for a server that is about to take requests. It may hang on a store.
_OPENING_S = 3.0
# How late a signal may be noticed.
_LOOK_S = 1.0


class Stop(NamedTuple):
    """The server is to stop."""

    lame_duck: bool
    """Whether it takes requests for a while still."""
    waits_for_opening: bool = True
    """Whether a server that is about to take requests takes them first: somebody may wait."""


class _Started(NamedTuple):
    """The start has ended."""

    is_up: bool
    """Whether the server takes requests, and its models are up or have failed; if not, why has
    been said."""


Event: TypeAlias = "_Started | Stop"
"""What the main thread waits for."""


class Events:
    """What the main thread waits for, from any thread and from handlers of signals."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Event] = SimpleQueue()

    def put(self, event: Event) -> None:
        """Have the main thread take note of an event; may be called in handlers of signals."""
        self._queue.put(event)

    def next(self) -> Event:
        """Return the next event; blocks until there is one."""
        # A signal that comes in the moment before the thread falls asleep does not wake it.
        while True:
            try:
                return self._queue.get(timeout=_LOOK_S)
            except Empty:
                continue


class Reports(Protocol):
    """Who hears how the server does. Called in any thread."""

    def opened(self, addresses: Sequence[str]) -> None:
        """The server takes requests there."""

    def up(self) -> None:
        """Every model is up or has failed."""

    def failed(self, reason: str) -> None:
        """The server can't start; `reason` is one line."""

    def stopping(self) -> None:
        """The server stops."""


class Standalone:
    """Says how the server does on the standard output and error."""

    def __init__(self, log_format: str) -> None:
        self._log_format = log_format

    def opened(self, addresses: Sequence[str]) -> None:
        """Say where the server listens."""
        for address in addresses:
            console.say(listening(address), log_format=self._log_format)

    def up(self) -> None:
        """Say nothing: the log has said it of each model."""

    def failed(self, reason: str) -> None:
        """Say why."""
        console.complain(reason, log_format=self._log_format)

    def stopping(self) -> None:
        """Say it."""
        console.say("stopping", log_format=self._log_format)


def make_server(config: Config) -> Server:
    """Return a server of its own; imports all that it needs."""
    from ladle.server.server import Server

    return Server(config, owns_process=True)


def run(
    config: Config,
    reports: Reports,
    *,
    make: Callable[[Config], Server] = make_server,
    events: Events | None = None,
    worker: int | None = None,
) -> int:
    """Serve until SIGTERM, Ctrl-C or a Stop, and end the process.

    Returns only the code of bad settings.

    Args:
        config: the settings.
        reports: hears how the server does.
        make: makes the server; called in another thread.
        events: what the main thread waits for, for those who put a Stop there.
        worker: the number of this process, where it is one of several.

    Raises:
        ModuleNotFoundError: A package is not installed.
    """
    # Imported late: a supervisor, which is small, imports this module.
    from ladle.server.monitoring import tracing

    log_format = config.log_format
    console.set_up_log(log_format, worker)
    try:
        tracing.configure_from_environment()
    except tracing.TracingError as error:
        reports.failed(str(error))
        return 2
    _quiet_tensorflow()
    _quiet_grpc()
    for name, reason in config.without_effect.items():
        logger.warning("--%s does nothing: %s", name, reason)
    events = events or Events()
    _Signals(events, log_format)
    starting = _Starting(config, make, events, reports)
    starting.begin()
    event = events.next()
    if isinstance(event, _Started) and event.is_up:
        event = events.next()
    if starting.missing is not None:
        raise starting.missing
    if not isinstance(event, Stop):
        return leave(1)
    reports.stopping()
    longest_s = min(_OPENING_S, config.drain_grace_seconds) if event.waits_for_opening else 0.0
    server = starting.opened_server(longest_s)
    if server is not None:
        server.stop(lame_duck=event.lame_duck)
    tracing.flush(_FLUSH_S)
    return leave(0)


class _Starting:
    """Makes and opens the server in a thread of its own, and waits there for its models.

    The main thread is left to signals: Python runs handlers of signals there, between any two
    instructions, and an exception out of one may end a wait for a lock without the lock.
    """

    def __init__(
        self,
        config: Config,
        make: Callable[[Config], Server],
        events: Events,
        reports: Reports,
    ) -> None:
        self._config = config
        self._make = make
        self._events = events
        self._reports = reports
        self.missing: ModuleNotFoundError | None = None
        """Set if the start failed because a package is not installed."""
        self._is_stopped = False
        self._server: Server | None = None
        self._ended_opening = threading.Event()

    def begin(self) -> None:
        """Start the thread; an event says how the start ended."""
        threading.Thread(target=self._run, name="start", daemon=True).start()

    def opened_server(self, timeout_s: float) -> Server | None:
        """Return the server once it takes requests; None if it does not within the time.

        Nobody hears any more why the start fails: it is stopped.
        """
        self._is_stopped = True
        if self._config.wait_for_models:
            timeout_s = 0.0  # it may load for minutes, and nobody can have asked it
        return self._server if self._ended_opening.wait(timeout_s) else None

    def _run(self) -> None:
        is_up = False
        try:
            is_up = self._start()
        except ModuleNotFoundError as error:
            self.missing = error
        except BaseException:
            logger.exception("the server failed to start")
        self._ended_opening.set()
        self._events.put(_Started(is_up))

    def _start(self) -> bool:
        from ladle.server.transport.addresses import AddressInUse
        from ladle.server.wiring.startup import StartupError

        try:
            server = self._make(self._config)
            server.open()
            self._server = server
            self._ended_opening.set()
            self._reports.opened(server.addresses)
            server.wait_for_models()
        except (StartupError, AddressInUse) as error:
            if not self._is_stopped:
                self._reports.failed(str(error))
            return False
        self._reports.up()
        return True


class _Signals:
    """The first SIGTERM or Ctrl-C is a Stop, the second ends the process at once.

    SIGHUP is a Stop too, and never more than that: a terminal that goes sends it, and systemd's
    `SendSIGHUP` sends it right after SIGTERM.
    """

    def __init__(self, events: Events, log_format: str) -> None:
        self._came = False
        self._events = events
        self._log_format = log_format
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._received)
        # Of a server under nohup a terminal that goes wants nothing.
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._hung_up)

    def _received(self, number: int, _: object) -> None:
        if self._came:
            console.say("stopping at once", log_format=self._log_format)
            leave(0)
        self._came = True
        self._events.put(Stop(lame_duck=number != signal.SIGINT))

    def _hung_up(self, _number: int, _: object) -> None:
        self._events.put(Stop(lame_duck=True))


def listening(address: str) -> str:
    """Say what an address is for: `0.0.0.0:8500`, `http://0.0.0.0:8501`, `unix:/path`."""
    scheme, separator, at = address.partition("://")
    if not separator:
        return f"listening on {address} (gRPC)"
    page = f"{scheme}://localhost:{at.rpartition(':')[2]}/"
    return f"listening on {address} (HTTP; status page: {page})"


def leave(code: int) -> NoReturn:
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
