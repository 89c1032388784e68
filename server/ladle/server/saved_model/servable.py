"""A SavedModel in a TensorFlow session: the one module through which requests reach TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.server.core.errors import FailedPrecondition, InvalidArgument
from ladle.server.core.servable import Arrays, Signature
from ladle.server.saved_model.errors import explained, serving_error
from ladle.server.saved_model.memory import give_back

# An output_filter can name any subset of the outputs, and each gets a compiled callable; past
# this many the oldest is dropped: a caller who tries all subsets costs time, not memory.
_MAX_CALLABLES = 64

_Callable = Callable[..., Sequence[NDArray[Any]]]


class SavedModelServable:
    """A loaded version: a v1 session over the SavedModel's graph.

    A session runs TF1 and TF2 models alike, just the fetches that are asked for, and gives its
    memory back when it is closed. Runs go through CallableOptions: measured on the MNIST
    classifier, batch 1, a run costs 65 µs so, 440 µs through `Session.make_callable` (which feeds
    through `Session.run`), and 630 µs through the concrete function.
    """

    def __init__(
        self,
        session: Any,
        signatures: Mapping[str, Signature],
        signature_defs: Mapping[str, bytes],
        card_json: str | None,
        *,
        run_inline: bool,
        all_dimensions: bool,
    ) -> None:
        """Take over `session`.

        `run_inline` runs operations in the caller's thread; `all_dimensions` refuses inputs with
        fewer dimensions than declared.
        """
        self.signatures = signatures
        self.signature_defs = signature_defs
        self.card_json = card_json
        self.default_signature = ""
        self._session = session
        self._run_inline = run_inline
        self._all_dimensions = all_dimensions
        self._lock = threading.Lock()
        self._callables: dict[tuple[str, tuple[str, ...]], _Callable] = {}
        self._not_run: dict[tuple[str, tuple[str, ...]], _Callable] = {}  # compiled beforehand

    @property
    def used(self) -> list[tuple[str, tuple[str, ...]]]:
        """The signatures, with the outputs wanted, that have run and need no compiling.

        The oldest come first.
        """
        return list(self._callables)

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run the signature and return the named outputs; blocks until they are there.

        Raises:
            ServingError: The model refused the inputs, or failed; where an input's shape is not
                the declared one, the message says so first.
        """
        if self._all_dimensions:
            refuse_missing_dimensions(signature, inputs)
        try:
            call = self._callables.get((signature.name, outputs))
            if call is None:
                call = self._make_callable(signature, outputs)
            results = call(*[inputs[alias] for alias in signature.inputs])
        except Exception as error:
            raise explained(serving_error(error), signature, inputs) from error
        return {alias: _array(result) for alias, result in zip(outputs, results, strict=True)}

    def compile(self, signature: Signature, outputs: tuple[str, ...]) -> None:
        """Compile the signature for these outputs, so that the first run need not; blocks.

        Raises:
            ServingError: No answer can carry one of them, or TensorFlow can't compile it.
        """
        key = signature.name, outputs
        try:
            with self._lock:
                room = _MAX_CALLABLES - len(self._callables) - len(self._not_run)
                if room > 0 and key not in self._callables and key not in self._not_run:
                    self._not_run[key] = self._compiled(signature, outputs)
        except Exception as error:
            raise serving_error(error) from error

    def close(self) -> None:
        """Close the session and give its memory back to the system."""
        self._callables.clear()
        self._not_run.clear()
        self._session.close()
        del self._session
        give_back()

    def _make_callable(self, signature: Signature, outputs: tuple[str, ...]) -> _Callable:
        key = signature.name, outputs
        with self._lock:
            call = self._callables.get(key)  # another thread may have made it meanwhile
            if call is None:
                call = self._not_run.pop(key, None) or self._compiled(signature, outputs)
                while len(self._callables) + len(self._not_run) >= _MAX_CALLABLES:
                    oldest = self._not_run or self._callables
                    oldest.pop(next(iter(oldest)))
                self._callables[key] = call
            return call

    def _compiled(self, signature: Signature, outputs: tuple[str, ...]) -> _Callable:
        from tensorflow.core.protobuf import config_pb2

        specs = [signature.outputs[alias] for alias in outputs]
        for alias, spec in zip(outputs, specs, strict=True):
            if spec.unanswerable:
                raise FailedPrecondition(
                    f"output {alias!r} of signature {signature.name!r} is {spec.unanswerable}, "
                    "which no answer can carry: name the outputs that you need in output_filter"
                )
        options = config_pb2.CallableOptions(
            feed=[spec.feed_name for spec in signature.inputs.values()],
            fetch=[spec.feed_name for spec in specs],
        )
        if self._run_inline:
            # -1 is the caller's own thread: with one batch at a time a second pool only adds hops.
            options.run_options.inter_op_thread_pool = -1
        call: _Callable = self._session._make_callable_from_options(options)
        quantized = [_quantized(spec.data_type) for spec in specs]
        return _retyped(call, quantized) if any(quantized) else call


def refuse_missing_dimensions(signature: Signature, inputs: Arrays) -> None:
    """See that no input has fewer dimensions than the signature declares.

    Raises:
        InvalidArgument: One has.
    """
    for alias, spec in signature.inputs.items():
        shape = inputs[alias].shape
        if spec.shape is not None and len(shape) < len(spec.shape):
            raise InvalidArgument(f"input {alias!r}: expected {spec}, got shape {list(shape)}")


def _array(result: Any) -> NDArray[Any]:
    # A single string comes as bytes, which numpy by itself would cut at its last zeros.
    return np.asarray(result, object if isinstance(result, bytes) else None)


def _quantized(data_type: int) -> np.dtype[Any] | None:
    dtype = dtypes.to_numpy(data_type)
    return dtype if dtype.names else None


def _retyped(call: _Callable, quantized: Sequence[np.dtype[Any] | None]) -> _Callable:
    """Give quantised results back the dtype that TensorFlow's plain integers have lost."""

    def retyped(*inputs: NDArray[Any]) -> Sequence[NDArray[Any]]:
        return [
            result if dtype is None else np.asarray(result).view(dtype)
            for result, dtype in zip(call(*inputs), quantized, strict=True)
        ]

    return retyped
