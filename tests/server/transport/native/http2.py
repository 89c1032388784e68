"""Just enough of HTTP/2 to misbehave: frames as bytes, on a plain socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from fakes import TIMEOUT_S

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
ENHANCE_YOUR_CALM = 11


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name: str, value: str) -> bytes:
    """A header field of HPACK, without index; both texts are short."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


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

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.send(PREFACE + frame(SETTINGS, 0, 0))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, frames: bytes) -> None:
        """Send frames."""
        self._socket.sendall(frames)

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of each frame that comes, until the connection ends."""
        while (head := self._exactly(9)) is not None:
            size = int.from_bytes(head[:3], "big")
            kind, flags, stream = struct.unpack(">BBI", head[3:])
            yield kind, flags, stream, self._exactly(size) or b""

    def wait_for(self, kind: int) -> bytes:
        """Return the payload of the next frame of a kind."""
        return next(payload for each, _, _, payload in self.frames() if each == kind)

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
