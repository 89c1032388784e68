"""A SavedModel restored as objects: for models whose variables a session does not restore."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.server.core.errors import FailedPrecondition
from ladle.server.core.servable import Arrays, Signature
from ladle.server.saved_model.errors import explained, serving_error
from ladle.server.saved_model.memory import give_back
from ladle.server.saved_model.runtime import tensorflow
from ladle.server.saved_model.servable import refuse_missing_dimensions


def load_objects(path: Path, tags: tuple[str, ...]) -> Any:
    """Return the SavedModel in `path` as TensorFlow's object loader restores it; blocks.

    Raises:
        FailedPrecondition: It restores no value for a variable that a signature reads, either.
        Exception: Whatever else TensorFlow raises.
    """
    loaded = tensorflow().saved_model.load(str(path), tags=list(tags))
    for function in loaded.signatures.values():
        for variable in function.graph.variables:
            if not variable.is_initialized():
                raise FailedPrecondition(f"the variable {variable.name!r} has no value")
    return loaded


class ObjectServable:
    """A loaded version whose signatures are concrete functions. Thread-safe.

    A run costs some hundred microseconds more than in a session, and computes every output.
    """

    def __init__(
        self,
        loaded: Any,
        signatures: Mapping[str, Signature],
        signature_defs: Mapping[str, bytes],
        card_json: str | None,
        *,
        all_dimensions: bool,
    ) -> None:
        """Take over what `load_objects` has returned; a signature that it lacks is left out.

        `all_dimensions` refuses inputs with fewer dimensions than declared.
        """
        self.signatures = {n: s for n, s in signatures.items() if n in loaded.signatures}
        self.signature_defs = signature_defs
        self.card_json = card_json
        self.default_signature = ""
        self._loaded = loaded
        self._all_dimensions = all_dimensions

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run the signature and return the named outputs; blocks until they are there.

        Raises:
            ServingError: The model refused the inputs, or failed.
        """
        if self._all_dimensions:
            refuse_missing_dimensions(signature, inputs)
        tf = tensorflow()
        try:
            tensors = {
                alias: tf.constant(array, tf.dtypes.as_dtype(signature.inputs[alias].data_type))
                for alias, array in inputs.items()
            }
            results = self._loaded.signatures[signature.name](**tensors)
            return {alias: _array(results[alias]) for alias in outputs}
        except Exception as error:
            raise explained(serving_error(error), signature, inputs) from error

    def close(self) -> None:
        """Give the model's memory back to the system."""
        del self._loaded
        gc.collect()
        give_back()


def _array(result: Any) -> NDArray[Any]:
    value = result.numpy()
    # A single string comes as bytes, which numpy by itself would cut at its last zeros.
    return np.asarray(value, object if isinstance(value, bytes) else None)
