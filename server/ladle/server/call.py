"""The seam between transports and services: bytes come in with a Call, bytes or a status go out.

A transport turns the wire into Calls and Streams and knows nothing of models; services know
nothing of gRPC. A handler may answer later and from another thread, so that a transport which
hands over whole lists of requests at once fits behind the same seam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from ladle.server.core.errors import ServingError
from ladle.server.core.observation import Observation


class Call(Protocol):
    """One unary request. It ends exactly once, with `respond` or with `fail`."""

    @property
    def request(self) -> bytes:
        """The request message as it came."""

    @property
    def local(self) -> bool:
        """Whether the caller is on this machine: on a Unix socket, or a loopback address."""

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the caller stops waiting; None if it never does."""

    @property
    def shared_observation(self) -> Observation | None:
        """The observation of the larger request that this call is a part of, as one over REST is.

        The maker of the call ends that observation. None for a call that stands by itself.
        """

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once, in any thread, when the call is over for its caller.

        That is after an answer, or, before there was one, because the caller went away; at once
        where that has happened already. The callback must not block.
        """

    def discard_request(self) -> None:
        """Free the request message, which may be large; nobody may read it after this."""

    def respond(self, response: bytes) -> None:
        """Send the response message; never blocks."""

    def fail(self, error: ServingError) -> None:
        """End the call with a status instead; never blocks."""


class Group(Protocol):
    """Calls of one method that differ in contents and echoes alone, as `Alike` says. Thread-safe.

    A member is named by its place. Nothing here blocks.
    """

    @property
    def template(self) -> bytes:
        """What all of them have in common: equal for groups that differ in nothing else.

        It says the method, the metadata that `Alike` names, and all of the message but contents and
        echoes.
        """

    @property
    def request(self) -> bytes:
        """The request message of one of them; empty if all callers have gone."""

    @property
    def nbytes(self) -> int:
        """The size of each request message in bytes, without its echo."""

    @property
    def contents(self) -> Sequence[tuple[int, bytes, bytes]]:
        """The contents of `request`, in their order.

        Of each there is the number of its path in `Alike`, the name of the message that has it
        (empty where nothing names it), and its bytes.
        """

    @property
    def echoes(self) -> Sequence[bytes]:
        """What the answer to each member repeats: a field as it is on the wire, or nothing."""

    def __len__(self) -> int: ...

    def metadata(self, key: str) -> str | None:
        """Return the value that all callers sent under a key which `Alike` names."""

    def call(self, member: int) -> Call:
        """Return one of the calls, to be ended by itself."""

    def deadline(self, member: int) -> float | None:
        """The monotonic time at which a member's caller stops waiting; None if it never does."""

    def on_end(self, callback: Callable[[int], None]) -> None:
        """Have `callback` called with each member whose caller goes before it is settled.

        It is called in the transport's thread, or at once where that has happened already. It must
        not block.
        """

    def waiting(self, members: Sequence[int]) -> list[int]:
        """Return those of the members whose callers still wait."""

    def gather(self, content: int, members: Sequence[int]) -> tuple[bytes, int]:
        """Return a content of these members, one after the other, and where it begins in the bytes.

        It begins where a model can be fed with it without another copy. Members whose callers have
        gone have zeros.
        """

    def settle(self, members: Sequence[int]) -> list[int]:
        """Take members for answers that follow at once.

        Returns the places in `members` of those whose callers still wait. No caller's going ends
        them any more.
        """

    def answer(
        self,
        members: Sequence[int],
        places: Sequence[int],
        start: bytes,
        fields: Sequence[tuple[bytes, bytes]],
        end: bytes,
    ) -> None:
        """Answer members that were settled, by their places in `members`.

        Args:
            members: as `settle` got them.
            places: what `settle` returned.
            start: what comes first in each answer, before the member's echo.
            fields: what comes one after the other then: bytes that all answers have, and bytes
                that all of `members` share evenly, in their order.
            end: what comes last in each answer.
        """

    def respond(self, member: int, response: bytes) -> None:
        """Answer a member that was settled with a message of its own."""

    def fail(self, member: int, error: ServingError) -> None:
        """End a member that was settled with a status instead."""


class Stream(Protocol):
    """One call with any number of messages either way. It is ended exactly once."""

    @property
    def local(self) -> bool:
        """As a Call's."""

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the caller stops waiting; None if it never does."""

    def metadata(self, key: str) -> str | None:
        """Return the value that the caller sent under this lower-case key."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """As a Call's."""

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, in any thread, when the server is going to stop.

        It is called at once if the server is stopping already. The stream should end soon after
        that, or the transport cuts it off.
        """

    def receive(self, callback: Callable[[bytes | None], None]) -> None:
        """Ask for one message more; never blocks.

        `callback` gets it later in the transport's thread and must not block; None stands for the
        end of what the caller sends. Nothing is read ahead of what was asked for, so a caller is
        held back by HTTP/2's flow control. Not to be called again before the callback was.
        """

    def on_idle(self, callback: Callable[[], None]) -> None:
        """Have `callback` called in the transport's thread once nothing more has come.

        The transport delivers a message that was asked for and has come before that. Not to be
        called again before the callback was. After the stream's end the callback is never called.
        """

    def in_thread(self, work: Callable[[], None], *, waits: bool = False) -> None:
        """Have `work` done in a thread; `waits`: it may wait for something, and not just work."""

    def reserve(self, nbytes: int) -> None:
        """Count the bytes of a request as under way; the stream's end counts out what is left.

        Raises:
            ResourceExhausted: It is too large, or there is no room for it; nothing was counted.
        """

    def give_back(self, nbytes: int) -> None:
        """Count out bytes that were reserved."""

    def send(self, message: bytes, sent: Callable[[], None], *, more: bool = False) -> None:
        """Send a message; never blocks.

        `sent` is called when the connection has taken the message; until then the next one has to
        wait. With `more`, which says that the next one is there, both may travel together. After
        the stream's end nothing is sent, and `sent` is never called.
        """

    def end(self, error: ServingError | None = None) -> None:
        """End the call, well or with a status; what is being sent still arrives. Never blocks."""


Handler: TypeAlias = Callable[[Call], None]
"""Answers a call in a thread of the transport's pool; it may block, and may answer later."""


class ContentPath(NamedTuple):
    """Where a request has contents: any bytes are as good as others there."""

    fields: tuple[int, ...]
    """The fields that lead there from the request. The first may be repeated, and each of the
    others is there once. The last is the content itself."""
    key: int | None = None
    """The field that names each message that the first field leads to, as the key of a map's entry
    does. No two have the same name. None: the first field is the content itself."""


@dataclass(frozen=True)
class Alike:
    """Handles calls together that differ in nothing but contents, and a text to be echoed.

    A transport that hands over several calls at once may use it, and need not.
    """

    handle: Callable[[Group], bool]
    """Takes the calls and waits for nothing. False: it has not, and each is to be handled by
    itself. Never raises."""
    contents: tuple[ContentPath, ...]
    """Where contents are."""
    metadata: tuple[str, ...]
    """What callers send that the answer depends on: of calls that are alike it is equal."""
    echo: int | None = None
    """The field of a request, and of its answer, that has a text of each caller's own; the request
    depends on it in nothing else."""


@dataclass(frozen=True)
class NonBlocking:
    """A handler that waits for nothing, and so needs no thread of its own.

    A transport may call it in the thread that takes what comes from the network, unless the request
    is so large that decoding it would hold up others. Where it has to wait after all, it returns a
    Handler that takes the call over in a thread.
    """

    handle: Callable[[Call], Handler | None]
    has_own_room: bool = False
    """Whether other methods' calls leave room for this one's: health has to answer then, too."""
    alike: Alike | None = None
    """Handles many calls as one; None: each is handled by itself."""

    def handle_blocking(self, call: Call) -> None:
        """Handle the call in a thread that may block."""
        blocking = self.handle(call)
        if blocking is not None:
            blocking(call)


@dataclass(frozen=True)
class Streaming:
    """A handler of streams; it is called when one begins, and must not block."""

    handle: Callable[[Stream], None]
    has_own_room: bool = False
    """As of NonBlocking."""


Methods: TypeAlias = Mapping[str, Handler | NonBlocking | Streaming]
"""What a transport serves: a handler for each full method path, `/package.Service/Method`."""

Gate: TypeAlias = "Callable[[str, str | None], None]"
"""Lets a caller who shows this `authorization` through to a method's path, or raises ServingError.

A transport asks it of every call, health and reflection included, before it reads the request.
"""


class Transport(Protocol):
    """Serves Methods on addresses.

    Order of calls: `check` and `listen` for each address; `start`; `enter_lame_duck`; `drain`;
    `stop`. All but `stop` may be left out. One thread calls them; `calls` may be read in any.
    """

    @property
    def calls(self) -> int:
        """How many calls have come since `start`, refused ones included."""

    def check(self, address: str) -> None:
        """Find out whether an address could be had; nobody can connect to it yet.

        Args:
            address: `0.0.0.0:8500` or `unix:/path`. Port 0 stands for any free one.

        Raises:
            AddressInUse: The address can't be had.
        """

    def listen(self, address: str) -> int:
        """Bind an address, as `check` takes it, and return its port; 0 for a Unix socket.

        Raises:
            AddressInUse: The address can't be bound.
        """

    def start(self) -> None:
        """Take calls from now on; returns at once.

        Raises:
            OSError: The system has no descriptors or threads for it.
            RuntimeError: It has no threads for it.
        """

    def enter_lame_duck(self) -> None:
        """Go on taking connections and calls, but ask callers to go elsewhere; never blocks.

        A transport that can sends GOAWAY on each connection that is open.
        """

    def drain(self, grace_s: float) -> None:
        """Take no new calls, and give those under way `grace_s` seconds; never blocks.

        The callbacks of `on_stop` are called. A call that comes too late ends as UNAVAILABLE,
        where the transport can still answer it.
        """

    def stop(self, grace_s: float = 0.0) -> None:
        """Drain, unless `drain` was called before, and return when every call has ended.

        What still runs when the grace is over is cut off.
        """
