"""One HTTP connection: has requests answered in their order, and bounds what waits and how long."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections import deque
from collections.abc import Callable, Mapping

from ladle.server.transport.http.answers import answer_busy, answer_failure, head, no_request
from ladle.server.transport.http.connections import Connections
from ladle.server.transport.http.exchange import MAX_UNTAKEN_BYTES, Exchange, Serve
from ladle.server.transport.http.parser import Head, NotHttp, RequestParser
from ladle.server.transport.peer import is_loopback

logger = logging.getLogger(__name__)

# How long a caller may take from a connection's or a request's first byte to the end of its head.
HEAD_TIMEOUT_S = 10.0
# How long the rest of a body may come in after the answer, which was a refusal then: a caller who
# is cut off at once may never read why.
_REST_TIMEOUT_S = 10.0
# Longer than load balancers keep idle connections, so that it is they who close them.
_KEEP_ALIVE_S = 75.0
# Larger bodies are not copied to make one piece with their heads.
_MAX_JOINED_BYTES = 64 << 10
# How much is parsed at a time: thousands of requests in one piece may hold up nobody.
_HEADS_BYTES = 4 << 10
_BODY_BYTES = 64 << 10


class HttpConnection(asyncio.Protocol):
    """Reads one connection's requests, and writes their answers in the same order."""

    _transport: asyncio.Transport

    def __init__(
        self, serve: Serve, connections: Connections, ended: Callable[[], None] | None = None
    ) -> None:
        """Take who answers.

        Args:
            serve: the application.
            connections: all there are; this one joins them.
            ended: called once the connection's descriptor is free; with it the connection is for
                probes alone.
        """
        self._serve = serve
        self._connections = connections
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(self)
        self._local = False
        self._is_extra = False
        # The request whose body is coming in, the one that is being answered, and those after it.
        self._receiving: Exchange | None = None
        self._current: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._last: Exchange | None = None  # the one after which the caller sends nothing more
        self._unparsed: bytes | memoryview = b""  # what has come; requests in it come after those
        self._refusal = b""  # what comes after all answers, before the connection is closed
        self._is_stopping = False
        self._is_reading = True
        self._can_write = True
        # Closed at that time, unless it is changed before. Few changes need another timer.
        self._due = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes of answers, when the time had come the last time

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first head, not for ever."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._local = bool(peer) and is_loopback(peer[0])
        self._close_after(HEAD_TIMEOUT_S)
        self._connections.add(self)
        self._is_extra = self._ended is not None or self._connections.is_over
        if self._is_extra:
            self._connections.idle[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Say that the caller has gone."""
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()  # else TLS's on Python 3.10 complains that nobody has closed it
        for exchange in (self._current, self._receiving, *self._waiting):
            if exchange is not None:
                exchange.leave()
        self._waiting.clear()
        if self._ended is not None:
            self._loop.call_soon(self._ended)  # asyncio closes the socket after this

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and have it answered."""
        self._unparsed = b"".join((self._unparsed, data)) if self._unparsed else data
        self._go_on(at_once=True)

    def pause_writing(self) -> None:
        """Read nothing from a caller who does not read."""
        self._can_write = False
        self._read_or_pause()

    def resume_writing(self) -> None:
        """Go on."""
        self._can_write = True
        self._go_on()

    # What all connections have.

    def stop(self) -> None:
        """Close the connection once the requests that have come are answered."""
        self._is_stopping = True
        if self._current is None and not self._waiting:
            self._close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # What the parser calls.

    def begin_request(self, head: Head) -> None:
        """Have a request answered, in its turn."""
        self._due = math.inf
        self._connections.idle.pop(self, None)
        if self._last is None:
            path, query = head.target
            exchange = Exchange(
                *(head.method, path, head.headers, self),
                query=query,
                local=self._local,
                asks_first=head.asks_first,
            )
            self._receiving = exchange
            self._waiting.append(exchange)
            if head.is_last:
                self._last = exchange

    def take_body(self, piece: bytes) -> None:
        """Hand a piece of the body over."""
        if self._receiving is not None:
            self._receiving.feed(piece)
            if self._receiving.untaken > MAX_UNTAKEN_BYTES:
                self._read_or_pause()

    def end_request(self) -> None:
        """Say that the body is whole."""
        exchange, self._receiving = self._receiving, None
        if exchange is not None:
            exchange.end_body()
            if exchange.is_answered and self._current is None:
                self._close_after(_KEEP_ALIVE_S)

    # What an exchange calls.

    def wants_more(self, exchange: Exchange) -> None:
        """Send the rest of the body: ask for it, where the caller waits for that."""
        if exchange.asks_first and exchange is self._receiving:
            exchange.asks_first = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._read_or_pause()

    def answer(
        self, exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        """Write the answer, and have the next request answered."""
        self._current = None
        if self._transport.is_closing():
            return
        closes = (
            exchange is self._last
            or headers.get("connection") == "close"
            or (self._is_stopping and not self._waiting)
            or self._ended is not None  # the next probe needs the descriptor
        )
        begin = head(status, headers, len(body), closes=closes)
        if exchange.method == "HEAD":
            body = b""
        if len(body) <= _MAX_JOINED_BYTES:
            self._transport.write(begin + body)
        else:
            self._transport.write(begin)
            self._transport.write(body)
        if closes:
            self._close()
            return
        self._go_on()
        if self._current is None and not self._parser.in_head:
            self._close_after(_KEEP_ALIVE_S if self._receiving is None else _REST_TIMEOUT_S)

    async def _run(self, exchange: Exchange) -> None:
        try:
            serve = self._serve if self._has_place(exchange) else answer_busy
            await serve(exchange)
        except asyncio.CancelledError:
            self._close()
            raise
        except Exception:
            logger.exception("a request over HTTP failed")
            if exchange.is_answered:
                self._close()
        if not exchange.is_answered:
            answer_failure(exchange)

    def _has_place(self, exchange: Exchange) -> bool:
        """Whether the request is served: the connection is none too many, or it is a probe."""
        if not self._is_extra or exchange.path in self._connections.always:
            return True
        return self._ended is None and not self._connections.is_over

    def _go_on(self, *, at_once: bool = False) -> None:
        """Begin with the next request, if the one before is answered, and that can be sent.

        What begins `at_once` saves a turn of the loop; no more than one request does.
        """
        began_before = self._parser.in_head
        self._parse()
        if self._current is None and self._can_write and not self._transport.is_closing():
            if self._waiting:
                exchange = self._current = self._waiting.popleft()
                self._due = math.inf
                self._begin(exchange, at_once)
                self._parse()
            elif self._refusal:
                self._transport.write(self._refusal)
                self._close()
        if self._parser.in_head and not began_before:
            self._close_after(HEAD_TIMEOUT_S)  # most heads come in one piece, and need no timer
        self._read_or_pause()

    def _parse(self) -> None:
        """Parse what has come until a request waits, with all that has come of its body."""
        while self._unparsed and (self._receiving is not None or not self._waiting):
            most = _HEADS_BYTES if self._receiving is None else _BODY_BYTES
            piece = self._unparsed
            self._unparsed = b""
            if len(piece) > most:
                piece, self._unparsed = memoryview(piece)[:most], memoryview(piece)[most:]
            try:
                self._parser.feed(piece)
            except NotHttp as error:
                self._unparsed = b""
                self._refuse(str(error))

    def _begin(self, exchange: Exchange, at_once: bool) -> None:
        if sys.version_info >= (3, 12):
            task = asyncio.Task(self._run(exchange), loop=self._loop, eager_start=at_once)
        else:
            task = self._loop.create_task(self._run(exchange))
        if not task.done():
            self._connections.tasks.add(task)
            task.add_done_callback(self._connections.tasks.discard)

    def _read_or_pause(self) -> None:
        """Read, unless there is enough to do, or nobody reads what comes of it."""
        receiving = self._receiving
        full = receiving is not None and receiving.untaken > MAX_UNTAKEN_BYTES
        enough = self._waiting or self._unparsed or self._refusal
        reads = self._can_write and not enough and not full
        if reads is not self._is_reading:
            self._is_reading = reads
            if reads:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    def _refuse(self, error: str) -> None:
        """Answer what is no request, after all that came before it, and close the connection."""
        broken = self._receiving
        if self._refusal or (self._last is not None and broken is not self._last):
            return  # nobody waits for an answer to that
        self._refusal = no_request(error)
        self._receiving = None
        if broken is None:
            return
        broken.leave()  # its body will never be whole
        if broken is self._current:
            self._current = None
        elif broken in self._waiting:
            self._waiting.remove(broken)

    def _close(self) -> None:
        """Close the connection once all is sent, which is not waited for for ever."""
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._close_after(_KEEP_ALIVE_S)

    def _close_after(self, seconds: float) -> None:
        self._due = due = self._loop.time() + seconds
        if self._timer is None or due < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(due, self._close_if_due)

    def _close_if_due(self) -> None:
        self._timer = None
        left = self._due - self._loop.time()
        if left > 0:
            if left != math.inf:
                self._close_after(left)
        elif self._current is not None:  # the answer comes first
            self._close_after(HEAD_TIMEOUT_S)
        elif unsent := self._transport.get_write_buffer_size():
            if unsent == self._unsent:
                self._transport.abort()  # nobody reads it
                return
            self._unsent = unsent
            self._close_after(_KEEP_ALIVE_S)
        else:
            self._transport.close()
