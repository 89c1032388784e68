"""The supervisor: starts the workers of `--workers`, hands signals on, and ends with them.

It has one thread, which waits for signals, messages and the end of processes. What to do about
them is decided in `fleet.py`. TensorFlow is never imported here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ladle.server.config import Config
from ladle.server.monitoring import console
from ladle.server.transport.addresses import AddressInUse
from ladle.server.transport.native.options import unknown
from ladle.server.wiring.choice import Unavailable, find
from ladle.server.wiring.running import leave, listening
from ladle.server.wiring.workers.deciding.fleet import Action, Drain, End, Fleet, Kill, Say, Start
from ladle.server.wiring.workers.frames import FrameError, Message
from ladle.server.wiring.workers.supervising.coordination import Coordinator
from ladle.server.wiring.workers.supervising.link import Link
from ladle.server.wiring.workers.supervising.ports import SharedPorts, bind_ports
from ladle.server.wiring.workers.supervising.processes import how_ended, start
from ladle.server.wiring.workers.supervising.refusals import problem
from ladle.server.wiring.workers.supervising.settings import worker_settings

logger = logging.getLogger(__name__)

# What the system may take to end a process that was killed, and to free its ports.
_END_S = 5.0


def supervise(config: Config, given: Mapping[str, Any]) -> int:
    """Serve by several processes until SIGTERM or Ctrl-C, and end this one.

    Returns only the code of settings that can't be served so.

    Args:
        config: the settings.
        given: what they were made of.
    """
    if reason := problem(config):
        console.complain(reason)
        return 2
    console.set_up_supervisor_log(config.log_format)
    try:
        transport = find(config.transport, unknown(config.channel_arguments)).name
        ports = bind_ports(config, transport)
    except (Unavailable, AddressInUse) as error:
        console.complain(str(error), log_format=config.log_format)
        return 1
    return leave(Supervisor(config, given, transport, ports).run())


@contextlib.contextmanager
def _whatever_happens() -> Iterator[None]:
    """Go on after a mistake in what workers say to each other: it must not end them all."""
    try:
        yield
    except Exception:
        logger.exception("a message between workers could not be handled")


class Supervisor:
    """Runs the workers of one command. Order of calls: `run`, once, in the main thread."""

    def __init__(
        self, config: Config, given: Mapping[str, Any], transport: str, ports: SharedPorts
    ) -> None:
        """Take what to serve, by which transport, and where."""
        self._config = config
        self._given = dict(given)
        self._transport = transport
        self._ports = ports
        self._fleet = Fleet(config.workers, config.drain_grace_seconds)
        self._coordinator = Coordinator(self._fleet, self._send, self._expel)
        self._links: dict[int, Link] = {}
        self._selector = selectors.DefaultSelector()
        self._status: int | None = None
        self._first_signal: signal.Signals | None = None
        self._said_where = False

    def run(self) -> int:
        """Start the workers, and return the exit status once they have ended."""
        woken, wake = socket.socketpair()
        for end in (woken, wake):
            end.setblocking(False)
        self._selector.register(woken, selectors.EVENT_READ, None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            # Of a supervisor under nohup a terminal that goes wants nothing.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)  # its number comes out of `woken`
        self._do(self._fleet.begin())
        while self._status is None:
            due = [t for t in (self._fleet.due(), self._coordinator.due()) if t is not None]
            timeout_s = max(0.0, min(due) - time.monotonic()) if due else None
            for ready, events in self._selector.select(timeout_s):
                if ready.data is None:
                    self._signalled(woken.recv(4096))
                else:
                    self._transfer(ready.data, events)
            self._do(self._fleet.tick(time.monotonic()))
            with _whatever_happens():
                self._coordinator.tick(time.monotonic())
        for link in self._links.values():  # those that were killed
            link.wait(_END_S)
        return self._status

    def _signalled(self, numbers: bytes) -> None:
        for number in map(signal.Signals, numbers):
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._do(self._fleet.replace_all())
            elif self._first_signal is None:
                self._first_signal = number
                console.say("stopping", log_format=self._config.log_format)
                # Workers have the ports still. Once they close them, callers are refused at once.
                self._ports.close()
                self._do(self._fleet.stop(time.monotonic(), lame_duck=number is not signal.SIGINT))
            else:
                console.say("stopping at once", log_format=self._config.log_format)
                self._do(self._fleet.stop_at_once())

    def _reap(self) -> None:
        """Take note of processes that have ended; in a container, also of others' children."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for key, link in list(self._links.items()):
                if link.pid == pid:
                    link.reaped(status)
                    self._handle(key, link.rest())
                    del self._links[key]
                    self._ended(key, how_ended(status))

    def _ended(self, key: int, how: str) -> None:
        number, is_asked = self._fleet.number(key), self._fleet.was_asked_to_end(key)
        self._do(self._fleet.ended(key, how, time.monotonic()))
        with _whatever_happens():
            self._coordinator.ended(key, number, is_death=not is_asked)

    def _expel(self, key: int) -> None:
        self._do(self._fleet.expel(key, time.monotonic()))

    def _do(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Start(key, number, late):
                    self._start(key, number, late)
                case Drain(key, lame_duck):
                    self._send(key, {"op": "drain", "lame_duck": lame_duck})
                case Kill(key):
                    if key in self._links:
                        self._links[key].kill()
                case Say(text, is_problem):
                    logger.log(logging.WARNING if is_problem else logging.INFO, "%s", text)
                case End(status, reason):
                    if reason:
                        console.complain(reason, log_format=self._config.log_format)
                    self._status = status

    def _start(self, key: int, number: int, late: bool) -> None:
        ours, theirs = socket.socketpair()
        try:
            process = start(number, self._config.workers, theirs, self._ports.passed)
        except OSError as error:
            ours.close()
            self._ended(key, f"could not be started: {error.strerror or error}")
            return
        finally:
            theirs.close()
        self._links[key] = Link(process, ours, self._selector, key)
        logger.info("worker %d starts pid=%s", number, process.pid)
        settings = worker_settings(
            self._given,
            transport=self._transport,
            grpc_port=self._ports.grpc_port,
            http_port=self._ports.http_port,
            late=late,
        )
        passed = {name: bound.fileno() for name, bound in self._ports.passed.items()}
        first = {"number": number, "workers": self._config.workers, "sockets": passed}
        self._send(key, {"op": "settings", "settings": settings, **first})

    def _transfer(self, key: int, events: int) -> None:
        link = self._links.get(key)
        if link is None:
            return
        if events & selectors.EVENT_WRITE:
            link.flush()
        if events & selectors.EVENT_READ:
            try:
                self._handle(key, link.receive() or [])
            except FrameError as error:
                logger.error("worker %d is killed: %s", self._fleet.number(key), error)

    def _send(self, key: int, message: Message) -> bool:
        """Have a worker get a message; False if it can't have it."""
        link = self._links.get(key)
        try:
            return link is not None and link.send(message)
        except FrameError as error:
            logger.error("worker %d can't be told: %s", self._fleet.number(key), error)
            return False

    def _handle(self, key: int, messages: Iterable[Message]) -> None:
        for message in messages:
            match message["op"]:
                case "opened":
                    self._do(self._fleet.opened(key))
                    self._say_where()
                case "up":
                    self._up(key)
                case "refused":
                    self._do(self._fleet.refused(key, str(message["reason"])))
                case _:
                    with _whatever_happens():
                        self._coordinator.handle(key, message, time.monotonic())
            with _whatever_happens():
                self._coordinator.release()

    def _up(self, key: int) -> None:
        number, now = self._fleet.number(key), time.monotonic()
        old = self._fleet.replaced(key)
        lacking = [] if old is None else self._coordinator.lacking(key, beside=old)
        if lacking:
            reason = f"could not load {', '.join(lacking)}, which the old one has"
            self._do(self._fleet.unfit(key, reason, now))
        else:
            logger.info("worker %d serves", number)
            self._do(self._fleet.up(key, now))

    def _say_where(self) -> None:
        if not self._said_where:
            self._said_where = True
            for address in self._ports.addresses:
                console.say(listening(address), log_format=self._config.log_format)
