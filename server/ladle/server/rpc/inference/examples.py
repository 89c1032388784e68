"""The rows of Classify, Regress and MultiInference: serialized tf.Examples, never parsed here."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos.ladle_pb import SerializedInput
from ladle.protos.tensors import MAX_REPEATED_BYTES
from ladle.server.core.errors import InvalidArgument

# Of so many the bytes are taken out of the message while Python's lock is held.
_AT_ONCE = 4096


def read_examples(sent: SerializedInput) -> NDArray[Any]:
    """Return the serialized Examples as an object array of bytes, [rows].

    A context is merged into each Example by writing the one's bytes before the other's, which is
    how protobuf merges: where both have a feature, the Example's counts. What is no Example at all
    is found by the model, which parses them.

    Raises:
        InvalidArgument: There are no Examples, or a context would be repeated out of proportion.
    """
    if sent.WhichOneof("kind") == "example_list_with_context":
        context = sent.example_list_with_context.context
        examples = sent.example_list_with_context.examples
    else:
        context = b""
        examples = sent.example_list.examples
    if not examples:
        raise InvalidArgument("Input is empty.")
    _check_repetition(context, len(examples))
    rows = np.empty(len(examples), object)
    for start in range(0, len(rows), _AT_ONCE):
        some = examples[start : start + _AT_ONCE]
        rows[start : start + _AT_ONCE] = [context + row for row in some] if context else some
    return rows


def _check_repetition(context: bytes, examples: int) -> None:
    # A context comes once and is copied for each Example, and an Example may have two bytes.
    if len(context) * examples > MAX_REPEATED_BYTES:
        raise InvalidArgument(
            f"example_list_with_context: repeating a context of {len(context)} bytes for "
            f"{examples} examples would take more than the {MAX_REPEATED_BYTES} bytes "
            "allowed: send fewer examples in a request"
        )
