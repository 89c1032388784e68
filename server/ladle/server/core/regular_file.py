"""Reads text files; what is wrong with one is a ServingError."""

from __future__ import annotations

from pathlib import Path

from ladle.protos.files.regular_file import TooLargeError, read_bytes
from ladle.server.core.errors import InvalidArgument


def read_text(path: Path, max_bytes: int) -> str:
    r"""Return the text of a regular file: UTF-8, a byte order mark left out, lines ended by `\n`.

    Raises:
        InvalidArgument: It can't be read, is larger, or is no text; the message names no file. An
            OSError is its cause.
    """
    try:
        data = read_bytes(path, max_bytes)
    except TooLargeError as error:
        raise InvalidArgument(str(error)) from None
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InvalidArgument(f"can't be read: {reason}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidArgument("can't be read: it is no text in UTF-8") from None
    return text.replace("\r\n", "\n")
