"""The process of one worker: a server like any other, which the supervisor starts and stops."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ladle.server.core.machine import cpus
from ladle.server.monitoring import console
from ladle.server.wiring.workers.frames import Message
from ladle.server.wiring.workers.serving.channel import Channel

if TYPE_CHECKING:
    from ladle.server.config import Config
    from ladle.server.server import Server


def main() -> None:
    """Serve as the supervisor says, and end the process. Its last argument is the channel."""
    console.open_standard_streams()
    descriptor = int(sys.argv[-1])
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    first = channel.first()
    if first is None:
        os._exit(1)
    sockets: dict[str, int] = first["sockets"]
    for passed in sockets.values():
        os.set_inheritable(passed, False)
    cpus.share_among(int(first["workers"]))
    _serve(channel, first)


def _serve(channel: Channel, first: Message) -> None:
    # Imported late: defaults of flags depend on the part of the machine that this process has.
    from ladle.server.config import Config
    from ladle.server.wiring.ports import Passed
    from ladle.server.wiring.running import Events, Stop, leave, run
    from ladle.server.wiring.workers.serving.siblings import Siblings

    config, number = Config(**first["settings"]), int(first["number"])
    events = Events()
    sockets = Passed(**first["sockets"])
    siblings = Siblings(channel, number, config.workers_barrier_seconds)

    def handle(message: Message) -> None:
        if message["op"] == "drain":
            events.put(Stop(bool(message["lame_duck"]), waits_for_opening=False))
        else:
            siblings.handle(message)

    def gone() -> None:
        siblings.gone()
        # The ports are to be free at once, for whoever serves next.
        events.put(Stop(lame_duck=False, waits_for_opening=False))

    def make(config: Config) -> Server:
        from ladle.server.server import Server

        return Server(config, passed=sockets, siblings=siblings, owns_process=True)

    channel.start(handle, gone)
    try:
        run(config, _Reports(channel), make=make, events=events, worker=number)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        reason = f"serve needs the package {missing}: pip install 'ladle[server]'"
        channel.send({"op": "refused", "reason": reason})
    leave(1)


class _Reports:
    """Says how the server does to the supervisor."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def opened(self, addresses: Sequence[str]) -> None:
        """Say that the server takes requests."""
        self._channel.send({"op": "opened"})

    def up(self) -> None:
        """Say that the models are up or have failed."""
        self._channel.send({"op": "up"})

    def failed(self, reason: str) -> None:
        """Say why the server can't start."""
        self._channel.send({"op": "refused", "reason": reason})

    def stopping(self) -> None:
        """Say nothing: the supervisor knows, or learns it by the end of the process."""
