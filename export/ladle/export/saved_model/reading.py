"""Read the message that a SavedModel is, without loading it and without Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ladle.export.errors import DataError


def has_saved_model(folder: Path) -> bool:
    """Return whether a SavedModel lies in `folder`, in whichever of its forms, damaged or not."""
    return any((folder / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))


def read_saved_model(folder: Path) -> Any:
    """Return the SavedModel message of the version in `folder`, of its binary file or its text.

    Raises:
        DataError: There is none, it can't be read, or it is damaged.
    """
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    binary, text = folder / "saved_model.pb", folder / "saved_model.pbtxt"
    file = text if text.is_file() and not binary.exists() else binary
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{folder}: expected saved_model.pb") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}") from error
    try:
        if file is binary:
            return saved_model_pb2.SavedModel.FromString(content)
        return text_format.Parse(content, saved_model_pb2.SavedModel())
    except Exception as error:  # protobuf's, of whichever of its implementations
        raise DataError(f"{file}: expected a SavedModel, and it is damaged") from error
