"""An answer over HTTP, as the endpoints give it."""

from __future__ import annotations

from collections.abc import Mapping


class Response:
    """A status, headers and a body. The transport adds the headers that HTTP itself needs."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = "",
    ) -> None:
        """Take what to answer.

        Args:
            body: the content; UTF-8 where it is text.
            status: HTTP's.
            headers: by lower-case name.
            media_type: what the body is; empty where `headers` say so, or there is none.
        """
        self.body = body
        self.status = status
        self.headers = dict(headers) if headers else {}
        if media_type.startswith("text/"):
            media_type += "; charset=utf-8"
        if media_type:
            self.headers["content-type"] = media_type
