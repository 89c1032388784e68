"""`--access_log`: a line for each request, written by a thread of its own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sys
import threading
import time
from collections import deque
from logging.handlers import RotatingFileHandler
from typing import NamedTuple

from ladle.server.core.observation import Observation, Unobserved
from ladle.server.monitoring.logs import log_stream, pairs, utc
from ladle.server.monitoring.request_log import Counting

_MAX_PENDING = 8192
# Lines are written together: a thread that woke for each would cost more than the request's.
_PAUSE_S = 0.1
_MAX_FILE_BYTES = 64 << 20
_MAX_OLD_FILES = 4
_COMPLAIN_EVERY_S = 60.0

logger = logging.getLogger(__name__)


class _Entry(NamedTuple):
    time: float
    request_id: str
    observation: Observation


class AccessLog(Unobserved):
    """An Observer that writes lines; what the writer is behind with is dropped, and counted.

    Thread-safe. Order of calls: anything, then `stop`.
    """

    def __init__(
        self,
        path: str,
        log_format: str,
        counting: Counting,
        *,
        worker: int | None = None,
        max_pending: int = _MAX_PENDING,
    ) -> None:
        """Open the log.

        Files are followed by others at 64 MiB; four old ones stay, as `PATH.1` to `PATH.4`. Several
        processes may write to one.

        Args:
            path: where to write; `-` for where the server's own log goes.
            log_format: `text` or `json`.
            counting: hears of lines that are dropped.
            worker: the number of this process, where it is one of several.
            max_pending: lines that may wait to be written.

        Raises:
            OSError: The file can't be opened, or is a FIFO that nobody reads.
        """
        self._handler: logging.Handler = (
            logging.StreamHandler(log_stream()) if path == "-" else _opened(path)
        )
        # By itself it would print a traceback for each line that a full disk has no room for.
        self._handler.handleError = self._write_failed  # type: ignore[method-assign]
        self._json = log_format == "json"
        self._counting = counting
        self._worker = {} if worker is None else {"worker": worker}
        self._max_pending = max_pending
        self._pending: deque[_Entry] = deque()
        self._complained = -_COMPLAIN_EVERY_S
        self._wake = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def request_ended(self, request: Observation) -> None:
        """Note the request; never blocks."""
        if len(self._pending) >= self._max_pending:
            self._counting.log_dropped("access", "queue_full")
            return
        self._pending.append(_Entry(time.time(), request.request_id, request))
        if not self._wake.is_set():
            self._wake.set()

    def stop(self, timeout_s: float) -> None:
        """Write what waits, within `timeout_s`."""
        self._stopped.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _write_failed(self, record: logging.LogRecord) -> None:
        self._counting.log_dropped("access", "write_failed")
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY_S:
            self._complained = now
            logger.error("the access log can't be written error=%s", sys.exc_info()[1])

    def _run(self) -> None:
        while not self._stopped.is_set():
            self._wake.wait()
            self._wake.clear()
            self._write()
            self._stopped.wait(_PAUSE_S)
        self._write()
        with contextlib.suppress(OSError):  # what could not be written is counted
            self._handler.close()

    def _write(self) -> None:
        for _ in range(len(self._pending)):
            line = self._line(self._pending.popleft())
            self._handler.handle(logging.LogRecord("access", 20, "", 0, line, None, None))

    def _line(self, entry: _Entry) -> str:
        fields = fields_of(entry) | self._worker
        return json.dumps(fields) if self._json else pairs(fields)


def _opened(path: str) -> logging.Handler:
    # A FIFO without a reader would block whoever opens it; so it is an error.
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666))
    return SharedFiles(path, maxBytes=_MAX_FILE_BYTES, backupCount=_MAX_OLD_FILES, encoding="utf-8")


class SharedFiles(RotatingFileHandler):
    """Files that other processes write to, and turn, too: each line goes to the newest."""

    def shouldRollover(self, record: logging.LogRecord) -> bool:
        """Return whether the file is full; open the one that somebody else put in its place."""
        if not self._is_newest():
            self._open_newest()
        assert self.stream is not None
        # Python 3.13 asks where this process has written last, and others have gone on from there.
        self.stream.seek(0, os.SEEK_END)
        return bool(super().shouldRollover(record))

    def doRollover(self) -> None:
        """Go on with another file, unless another process has begun one just now."""
        assert self.stream is not None  # shouldRollover has opened it
        held = os.dup(self.stream.fileno())
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            if self._is_newest():
                super().doRollover()
            else:
                self._open_newest()
        finally:
            os.close(held)

    def _open_newest(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.stream = self._open()

    def _is_newest(self) -> bool:
        if self.stream is None:
            return False
        try:
            return os.path.samestat(os.stat(self.baseFilename), os.fstat(self.stream.fileno()))
        except FileNotFoundError:
            return False


def fields_of(entry: _Entry) -> dict[str, object]:
    """Return the fields of a request's line."""
    observation = entry.observation
    fields: dict[str, object] = {
        "time": utc(entry.time),
        "request_id": entry.request_id,
        "entrypoint": observation.entrypoint,
        "method": observation.api,
        "code": observation.code.name,
        "took_ms": _ms(observation.began, observation.ended),
        "request_bytes": observation.request_bytes,
        "response_bytes": observation.response_bytes,
    }
    if observation.model:
        fields["model"] = observation.model[:256]
    if observation.version is not None:
        fields["version"] = observation.version
    if observation.signatures:
        fields["signature"] = ",".join(observation.signatures)[:256]
    if observation.rows:
        fields["rows"] = observation.rows
    if observation.run is not None and observation.queued is not None:
        fields["queue_ms"] = _ms(observation.queued, observation.run.started)
        fields["compute_ms"] = _ms(observation.run.assembled, observation.run.computed)
    if observation.error is not None:
        fields["error"] = observation.error.message[:512]
    return {key: value for key, value in fields.items() if value is not None}


def _ms(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round((end - start) * 1000, 3)
