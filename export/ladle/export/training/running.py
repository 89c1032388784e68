"""Keras's fit, whose errors become one sentence."""

from __future__ import annotations

import re
from typing import Any

import tensorflow as tf

from ladle.export.errors import ExportError

_MAX_REASON_LENGTH = 400
# What TensorFlow says of its own insides.
_NODES = re.compile(r"\{\{[^}]*\}\}|\[Op:\w+\]|name:\s*$")


def run_fit(model: Any, batches: Any, **arguments: Any) -> Any:
    """Call the compiled model's `fit` and return its history.

    Raises:
        ExportError: It failed: a layer, the loss or a metric can't compute with the data; or a
            checkpoint can't be written.
        ResourceExhaustedError: TensorFlow's, where memory is short.
    """
    try:
        return model.fit(batches, **arguments)
    except (ExportError, MemoryError, tf.errors.ResourceExhaustedError):
        raise
    except Exception as error:  # whatever Keras, TensorFlow or the code of a layer raises
        reason = " ".join(_NODES.sub("", str(error)).split())[:_MAX_REASON_LENGTH]
        raise ExportError(
            "the training failed: a layer, the loss or a metric can't compute with these data:"
            f" {type(error).__name__}: {reason}"
        ) from error
