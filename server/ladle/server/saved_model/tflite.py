"""TensorFlow Lite models, `model.tflite` in a version's folder: a pool of interpreters for each.

The interpreter is that of the package ai-edge-litert where it is installed, to which TensorFlow
hands its own over, or else the one that TensorFlow still brings.
"""

from __future__ import annotations

import queue
import re
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.server.core.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ServingError,
)
from ladle.server.core.servable import Arrays, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.errors import one_line
from ladle.server.saved_model.loading import TFLITE_FILE, read_card
from ladle.server.saved_model.runtime import tensorflow
from ladle.server.saved_model.tflite_signatures import TFLiteFunction, definition, functions

# How an interpreter names a custom operation that it lacks, and one of TensorFlow's own.
_UNRESOLVED = re.compile(r"unresolved custom op: ([\w>]{1,100})")
_OF_TENSORFLOW = "Select TensorFlow op"
_NODE = re.compile(r"Node number \d{1,9} \((\w{1,100})\)")


def load_tflite(
    servable_id: ServableId, path: Path, *, interpreters: int, threads: int = 1
) -> TFLiteServable:
    """Return the TensorFlow Lite model in `path`; blocks.

    Args:
        servable_id: what it is called in messages.
        path: the version's folder.
        interpreters: how many requests run at the same time, each with memory of its own.
        threads: of each interpreter.

    Raises:
        ServingError: There is no interpreter, the file is no model, or the interpreter lacks one
            of its operations.
    """
    interpreter_class = _interpreter_class()
    try:
        content = (path / TFLITE_FILE).read_bytes()
        if not content:
            raise ValueError("the file is empty")
        made = [
            _make(interpreter_class, content, max(1, threads)) for _ in range(max(1, interpreters))
        ]
    except OSError as error:
        raise ServingError(
            f"{servable_id}: {TFLITE_FILE} can't be read: {error.strerror}"
        ) from error
    except (ValueError, RuntimeError) as error:
        raise InvalidArgument(
            f"{servable_id}: {TFLITE_FILE} can't be loaded: {one_line(str(error))}"
        ) from error
    _require_operations(servable_id, made[0])
    remake = partial(_make, interpreter_class, content, max(1, threads))
    return TFLiteServable(made, functions(made[0], content), remake, read_card(path))


class TFLiteServable:
    """A loaded version. Thread-safe: each run has an interpreter to itself."""

    def __init__(
        self,
        interpreters: list[Any],
        functions: Mapping[str, TFLiteFunction],
        remake: Callable[[], Any],
        card_json: str | None,
    ) -> None:
        """Take over the interpreters; `remake` makes one more."""
        self.signatures = {name: function.signature for name, function in functions.items()}
        self.signature_defs = {
            name: definition(signature).SerializeToString()
            for name, signature in self.signatures.items()
        }
        self._functions = functions
        self.card_json = card_json
        self.default_signature = ""
        self._remake = remake
        # The last one used comes first: its memory has the right size, and is warm.
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        for interpreter in interpreters:
            self._free.put(interpreter)

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run the signature and return the named outputs; blocks until they are there.

        Raises:
            DeadlineExceeded: The deadline passed before an interpreter was free.
            ServingError: The model refused the inputs, or failed.
        """
        wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            interpreter = self._free.get(timeout=wait_s)
        except queue.Empty:
            raise DeadlineExceeded("the deadline passed before an interpreter was free") from None
        try:
            results = self._functions[signature.name].run(interpreter, inputs)
        except Exception as error:
            # What a failed run leaves behind is not to be trusted with the next request.
            interpreter = self._remake()
            raise _run_error(error) from error
        finally:
            self._free.put(interpreter)
        return {alias: _as_array(results[alias], signature.outputs[alias]) for alias in outputs}

    def close(self) -> None:
        """Free the interpreters."""
        while not self._free.empty():
            self._free.get_nowait()


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        tensorflow()  # whole, before a part of it
        try:
            from tensorflow.lite.python.interpreter import Interpreter
        except ImportError:
            raise FailedPrecondition(
                "the installed TensorFlow brings no TensorFlow Lite interpreter: install the "
                "package ai-edge-litert, or serve without --prefer_tflite_model"
            ) from None
    return Interpreter


def _make(interpreter_class: Any, content: bytes, threads: int) -> Any:
    with warnings.catch_warnings():
        # TensorFlow's announces that it will move to ai-edge-litert.
        warnings.simplefilter("ignore", UserWarning)
        return interpreter_class(model_content=content, num_threads=threads)


def _require_operations(servable_id: ServableId, interpreter: Any) -> None:
    """Refuse a model that the interpreter can't run.

    It finds out about an operation that it lacks once it makes room for tensors; it would with the
    first request.
    """
    try:
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        operation = _lacking(str(error))
        if operation:  # whatever else is wrong may be right with the shapes of a request
            raise FailedPrecondition(
                f"{servable_id}: the model needs the operation {operation!r}, which the installed "
                "TensorFlow Lite interpreter does not have: convert the model with built-in "
                "operations alone (for ParseExample: with the features as inputs), or serve the "
                "SavedModel without --prefer_tflite_model"
            ) from error


def _lacking(message: str) -> str:
    """Return the operation that an interpreter says it lacks; empty if it says something else."""
    found = _UNRESOLVED.search(message)
    if found is None:
        _, _, rest = message.partition(_OF_TENSORFLOW)
        found = _NODE.search(rest)
    return found[1] if found else ""


def _run_error(error: Exception) -> ServingError:
    if isinstance(error, ValueError | RuntimeError | TypeError):
        return InvalidArgument(f"the model refused the inputs: {one_line(str(error))}")
    return ServingError(f"{type(error).__name__}: {one_line(str(error))}")


def _as_array(result: Any, spec: TensorSpec) -> NDArray[Any]:
    array: NDArray[Any] = np.asarray(result)
    return array.astype(object) if spec.data_type == dtypes.STRING else array
