"""The log: one line for each event, as text or JSON, whatever is in the names that it quotes."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

_PLACEHOLDER = re.compile(r"(?:(\w{1,40})=)?%[-#0 +.\d]{0,9}[a-zA-Z]")
_PLAIN = re.compile(r"[^\s\"=\\]+")


def configure(log_format: str, stream: TextIO, worker: int | None = None) -> None:
    """Have the process's whole log written to `stream`, as `text` or as `json`.

    The lines of a server with several processes have the number of the `worker`.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(worker) if log_format == "json" else TextFormatter(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


def log_stream() -> TextIO:
    """Return what `configure` has the log written to; the standard error before that."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter | TextFormatter):
            assert isinstance(handler, logging.StreamHandler)
            stream: TextIO = handler.stream
            return stream
    return sys.stderr


def escaped(text: str) -> str:
    """Return the text in one printable line: control characters as Python would write them."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def pairs(fields: Mapping[str, object]) -> str:
    """Return fields as `key=value`, a value with spaces or quotes in it as JSON has it."""
    return " ".join(f"{key}={_shown(value)}" for key, value in fields.items())


def utc(seconds: float) -> str:
    """Return a time as `2026-11-22T01:02:03.456Z`."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


class TextFormatter(logging.Formatter):
    """Writes an event as text; a traceback goes in the same line, its line ends escaped."""

    def __init__(self, worker: int | None = None) -> None:
        """Take the number of the worker that writes; None where there are no others."""
        super().__init__()
        self._worker = "" if worker is None else f"w{worker} "

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        start = f"{utc(record.created)} {record.levelname[:1]} {self._worker}{record.name}"
        line = f"{start} {record.getMessage()}"
        trace = _traceback(record)
        return escaped(f"{line}\n{trace}" if trace else line)


class JsonFormatter(logging.Formatter):
    """Writes an event as a JSON object: what the message says, and its `key=value` apart."""

    def __init__(self, worker: int | None = None) -> None:
        """Take the number of the worker that writes; None where there are no others."""
        super().__init__()
        self._worker = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        event: dict[str, object] = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._worker,
            "message": record.getMessage(),
        }
        event |= {k: v for k, v in fields_of(record).items() if k not in event}
        trace = _traceback(record)
        if trace:
            event["traceback"] = trace
        return json.dumps(event, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """Return what the message has as `key=%s`, by key."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    keys = [found[1] for found in _PLACEHOLDER.finditer(str(record.msg))] if arguments else []
    if len(keys) != len(arguments):
        return {}
    return {
        key: value if isinstance(value, int | float | str) else str(value)
        for key, value in zip(keys, arguments, strict=True)
        if key
    }


def _traceback(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


def _shown(value: object) -> str:
    text: Any = value if isinstance(value, str) else str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else json.dumps(text)
