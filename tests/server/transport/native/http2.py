"""Just enough of HTTP/2 to misbehave: frames as bytes, on a plain socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from fakes import TIMEOUT_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM, END_HEADERS, PADDED, ACK = 1, 4, 8, 1
ENHANCE_YOUR_CALM = 11
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def setting(name: int, value: int) -> bytes:
    """A SETTINGS frame with one setting."""
    return frame(SETTINGS, 0, 0, struct.pack(">HI", name, value))


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", size))


def literal(name: str, value: str) -> bytes:
    """A header field of HPACK, without index."""
    return b"\x00" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    """A text of HPACK, not packed (RFC 7541, section 5.2)."""
    raw = text.encode("latin-1")
    if len(raw) < 0x7F:
        return bytes([len(raw)]) + raw
    length, rest = b"\x7f", len(raw) - 0x7F
    while rest >= 0x80:
        length += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return length + bytes([rest]) + raw


def headers(path: str, **more: str) -> bytes:
    """The header block of a call."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return b"".join(literal(name, value) for name, value in fields.items())


def message(payload: bytes) -> bytes:
    """A message of gRPC."""
    return b"\0" + struct.pack(">I", len(payload)) + payload


class Connection:
    """A caller on a plain socket."""

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S) -> None:
        """`timeout_s` bounds each wait for the server to take or to send something."""
        self._socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self.send(PREFACE + frame(SETTINGS, 0, 0))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, frames: bytes) -> None:
        """Send frames."""
        self._socket.sendall(frames)

    def half_close(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each frame that comes, until the connection ends."""
        while (head := self._exactly(9)) is not None:
            size = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            yield kind, flags, stream, self._exactly(size) or b""

    def wait_for(self, kind: int) -> bytes:
        """Return the payload of the next frame of a kind."""
        return next(payload for each, _, _, payload in self.frames() if each == kind)

    def read_to_the_end(self) -> None:
        """Read until the server ends the connection."""
        for _ in self.frames():
            pass

    def _exactly(self, size: int) -> bytes | None:
        read = b""
        while len(read) < size:
            try:
                piece = self._socket.recv(size - len(read))
            except ConnectionResetError:
                return None
            if not piece:
                return None
            read += piece
        return read
