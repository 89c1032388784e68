"""Takes apart what a connection receives: heads, bodies, and what is no HTTP."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import httptools

from ladle.server.transport.http.exchange import Headers

_MAX_HEAD_BYTES = 64 << 10
# What these say of a connection, they say before a body.
_OF_CONNECTIONS = frozenset((b"connection", b"proxy-connection", b"upgrade"))


class NotHttp(Exception):
    """What was received is no request, or none that the server takes; the message says why."""


class Head(NamedTuple):
    """The head of a request."""

    method: str
    target: tuple[str, str]
    """The path and the query, as they were sent, percent-encoded."""
    headers: Headers
    is_last: bool
    """Whether the caller sends no other request after it."""
    asks_first: bool
    """Whether the caller sends the body only when it is asked for."""


class Receiver(Protocol):
    """Is called with the parts of requests, in their order."""

    def begin_request(self, head: Head) -> None:
        """A head is whole."""

    def take_body(self, piece: bytes) -> None:
        """A piece of the body has come."""

    def end_request(self) -> None:
        """The body is whole."""


class RequestParser:
    """Parses the requests of one connection. Bounds heads, trailers included.

    An `Upgrade` is passed over, as RFC 9110 (7.8) lets a server do.
    """

    def __init__(self, receiver: Receiver) -> None:
        """Take who gets the parts."""
        self._receiver = receiver
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._unread_bytes = 0
        self._ignores_upgrade = False
        self.in_head = False
        """Whether a head has begun that is not whole yet."""
        self._parser = self._new_parser()

    def feed(self, data: bytes | memoryview) -> None:
        """Parse what has come.

        Raises:
            NotHttp: It is no request, and nothing after it can be one.
        """
        self._unread_bytes += len(data)
        pieces: list[bytes | memoryview] = [data]  # the next one last
        while pieces:
            piece = pieces.pop()
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                # The parser leaves the body to another protocol. A request that says the same
                # without `Upgrade` keeps its body, whatever part of it has come.
                self._ignores_upgrade = False
                if self._parser.get_method() == b"CONNECT":
                    raise NotHttp("The server is no proxy: it takes no CONNECT.") from None
                # What follows is not copied: many requests in one piece would each copy it again.
                pieces += [memoryview(piece)[upgrade.args[0] :], self._head_without_upgrade()]
                self._parser = self._new_parser()
            except httptools.HttpParserError as error:
                if isinstance(error.__context__, NotHttp):  # raised in a callback
                    raise error.__context__ from None
                raise NotHttp("Invalid HTTP request received.") from None
        if self._unread_bytes > _MAX_HEAD_BYTES:
            raise NotHttp("The head of the request is too large.")

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What comes after a last request takes away no answer to it.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _head_without_upgrade(self) -> bytes:
        version = self._parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version)]
        lines += [b"%b: %b" % pair for pair in self._headers if pair[0] != b"upgrade"]
        return b"\r\n".join((*lines, b"", b""))

    # What httptools calls.

    def on_message_begin(self) -> None:
        """A head begins."""
        self._url = b""
        self._headers = []
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        """A piece of the target has come."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header has come, or a trailer, which nobody reads."""
        name = name.lower()
        if self.in_head:
            self._headers.append((name, value))
        elif name in _OF_CONNECTIONS:  # the parser would obey, and drop the requests after it
            raise NotHttp(f"A trailer may not be {name.decode()!r} (RFC 9110, 6.5.1).")

    def on_headers_complete(self) -> None:
        """A head is whole."""
        parser = self._parser
        if parser.should_upgrade():
            self._ignores_upgrade = True
            return
        version = parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise NotHttp("The server speaks HTTP/1.0 and HTTP/1.1 on this port.")
        if version == "1.1" and not any(name == b"host" for name, _ in self._headers):
            raise NotHttp("Expected a Host header (RFC 9112, 3.2).")
        self.in_head = False
        self._unread_bytes = 0
        is_last = not parser.should_keep_alive() or version == "1.0"
        path, query, host = split(self._url)
        if host:  # it counts, and not the Host header (RFC 9112, 3.2.2)
            self._headers = [(n, host if n == b"host" else v) for n, v in self._headers]
            if version == "1.0" and not any(n == b"host" for n, _ in self._headers):
                self._headers.append((b"host", host))
        headers = Headers([(n.decode("latin-1"), v.decode("latin-1")) for n, v in self._headers])
        # HTTP/1.0 knows no answer before the answer (RFC 9110, 10.1.1).
        asks_first = version == "1.1" and headers.get("expect", "").lower() == "100-continue"
        method = parser.get_method().decode()
        target = path, query
        self._receiver.begin_request(Head(method, target, headers, is_last, asks_first))

    def on_body(self, body: bytes) -> None:
        """A piece of a body has come: it is no part of a head."""
        self._unread_bytes = 0
        self._receiver.take_body(body)

    def on_message_complete(self) -> None:
        """A body is whole."""
        if not self._ignores_upgrade:
            self._unread_bytes = 0
            self._receiver.end_request()


def split(target: bytes) -> tuple[str, str, bytes]:
    """Return the path, the query and the host with its port of a request's target.

    The path after a bare host is `/`. Most targets name no host; it is empty then.

    Raises:
        ValueError: There is no path. Within a callback, httptools takes that for no request.
    """
    host = b""
    if not target.startswith(b"/"):
        url = httptools.parse_url(target)
        if url.host:
            name = b"[%b]" % url.host if b":" in url.host else url.host
            host = name if url.port is None else b"%b:%d" % (name, url.port)
        target = (url.path or b"/") + b"?" + (url.query or b"")
    path, _, query = target.partition(b"#")[0].partition(b"?")
    if not path or not path.isascii():
        raise ValueError("expected a path in ASCII")
    return path.decode(), query.decode("latin-1"), host
