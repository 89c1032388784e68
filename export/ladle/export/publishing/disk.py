"""Write files by TensorFlow, and have what goes wrong be what it is in Python: an OSError."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf


@contextmanager
def as_os_errors() -> Iterator[None]:
    """Raise TensorFlow's errors as OSErrors, in the system's words.

    Left out are TensorFlow's names for nodes and for temporary files.
    """
    try:
        yield
    except tf.errors.OpError as error:
        said: str = error.message
        raise OSError(said.rpartition("; ")[2].partition(" [Op:")[0]) from error


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Write a TFRecord file, and wait until it is on disk.

    Raises:
        OSError: It can't be written.
    """
    with as_os_errors(), tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    with path.open("rb") as written:
        os.fsync(written.fileno())
