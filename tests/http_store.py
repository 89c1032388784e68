"""A store over HTTP, as S3 and Google's have it, that can fail in every way that stores do."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import format_datetime
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_THEN = datetime(2026, 1, 1, tzinfo=timezone.utc)


class HttpStore:
    """Buckets in memory, on a port of the loopback interface.

    `fault` is how the next answers fail: a status with an error code, `cut` in the middle of a
    body, `stall` before an answer until `go_on` is set, `lie` with a part that is too short.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.fault: str | tuple[int, str] = ""
        self.go_on = threading.Event()
        self.requests = 0
        store = self

        class Handler(_Handler):
            there = store

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """What leads s3:// and gs:// here."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "SECRETKEY",
            "AWS_REGION": "us-east-1",
            "STORAGE_EMULATOR_HOST": self.endpoint,
        }

    @contextmanager
    def running(self) -> Iterator[HttpStore]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.go_on.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


@lru_cache(maxsize=1024)
def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}-1"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    there: HttpStore

    def do_GET(self) -> None:
        if self._fails():
            return
        where = urlsplit(self.path)
        bucket, _, key = unquote(where.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(where.query).items()}
        if not key:
            self._list(bucket, query.get("prefix", ""), query.get("delimiter", ""))
            return
        data = self.there.objects.get(f"{bucket}/{key}")
        if data is None:
            self._error(404, "NoSuchKey")
        elif self.headers.get("If-Match", _etag(data)) != _etag(data):
            self._error(412, "PreconditionFailed")
        else:
            self._object(data)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fails():
            return
        key = unquote(urlsplit(self.path).path).lstrip("/")
        is_new = "x-goog-if-generation-match" in self.headers or "If-None-Match" in self.headers
        there = self.there.objects.get(key)
        is_other = there is not None and self.headers.get("If-Match", _etag(there)) != _etag(there)
        if is_other or (is_new and there is not None):
            self._error(412, "PreconditionFailed")
        else:
            self.there.objects[key] = data
            self._answer(200, b"", {"ETag": _etag(data)})

    def do_DELETE(self) -> None:
        key = unquote(urlsplit(self.path).path).lstrip("/")
        gone = self.there.objects.pop(key, None)
        self._answer(204 if gone is not None else 404, b"", {})

    def _list(self, bucket: str, prefix: str, delimiter: str) -> None:
        keys = [key[len(bucket) + 1 :] for key in self.there.objects if key.startswith(bucket)]
        keys = sorted(key for key in keys if key.startswith(prefix))
        folders = set()
        contents = ""
        for key in keys:
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                continue
            data = self.there.objects[f"{bucket}/{key}"]
            contents += (
                f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size>"
                f"<ETag>{escape(_etag(data))}</ETag>"
                f"<LastModified>{_THEN.isoformat()}</LastModified></Contents>"
            )
        contents += "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        self._answer(200, text.encode(), {})

    def _object(self, data: bytes) -> None:
        headers = {"ETag": _etag(data), "Last-Modified": format_datetime(_THEN, usegmt=True)}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            self._answer(200, data, headers)
            return
        start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
        if self.there.fault == "lie":
            end -= 1
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self._answer(206, data[start:end], headers)

    def _fails(self) -> bool:
        self.there.requests += 1
        match self.there.fault:
            case (status, code):
                self._error(status, code)
            case "stall":
                self.there.go_on.wait(60)
                self.close_connection = True
            case "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.send_header("ETag", '"x"')
                self.send_header("Last-Modified", format_datetime(_THEN, usegmt=True))
                self.end_headers()
                self.wfile.write(b"<ListBucketResult>")
                self.close_connection = True
            case _:
                return False
        return True

    def _error(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>TOKEN-IN-A-MESSAGE</Message></Error>"
        self._answer(status, text.encode(), {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
