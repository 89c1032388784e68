"""Signatures that a user's model brings, beside those that every export has.

They are made of the trained model, checked as all are, and in the warm-up file. What they are
checked with are held-out examples, where an input takes these, and else examples of the user's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.errors import ExportError
from ladle.export.saved_model.samples import Sample, encode
from ladle.export.saved_model.signatures import BUILT_IN, Endpoint

ATTRIBUTE = "ladle_signatures"
"""A model's attribute for them: a mapping, or a method that returns one."""

Find = Callable[[Any], NDArray[Any] | None]
"""Takes a tf.TensorSpec, and returns held-out examples of its dtype and shape; None for none."""

_MAX_REASON_LENGTH = 300


@dataclass(frozen=True, kw_only=True)
class CustomSignature:
    """A signature of one's own."""

    function: Callable[..., Mapping[str, Any]]
    """Takes a tensor for each of `inputs`, in their order, and returns tensors by name, each with
    a row for every row of the inputs."""
    inputs: tuple[Any, ...]
    """tf.TensorSpecs with names and an open first dimension."""
    examples: Mapping[str, Any] = field(default_factory=dict)
    """Arrays for those inputs that take neither raw nor prepared examples of the data, by name;
    as many rows each."""


def custom_endpoints(given: Any, model: Any) -> dict[str, CustomSignature]:
    """Return the signatures that `given`, or the model's attribute where it is None, brings.

    That is a mapping from names to signatures, or a function that returns one: of the model, or
    where it is the model's attribute, of nothing. A signature is an CustomSignature, a tf.function
    with an input signature, or a pair: a function and a list of tf.TensorSpecs with names.

    Raises:
        ExportError: It is something else.
    """
    if given is None:
        given = getattr(model, ATTRIBUTE, None)
        if callable(given):
            given = _called(given)
    elif callable(given):
        given = _called(given, model)
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ExportError(f"signatures: expected a mapping from names, got {type(given).__name__}")
    found = {}
    for name, signature in given.items():
        if not isinstance(name, str) or not name or name.startswith("__") or name in BUILT_IN:
            raise ExportError(f"signatures: expected a name that is not ladle's own, got {name!r}")
        found[name] = _checked(name, _as_custom(name, signature))
    return found


def as_endpoint(name: str, signature: CustomSignature) -> Endpoint:
    """Return what `write_saved_model` writes: the function as a graph, whose `if`s may ask tensors.

    Raises:
        ExportError: The function can't be made a graph.
    """
    graph = tf.function(signature.function, input_signature=signature.inputs)
    _called_for(name, graph.get_concrete_function)
    return Endpoint(function=graph, inputs=signature.inputs)


def custom_sample(name: str, signature: CustomSignature, find: Find) -> Sample:
    """Return inputs for `signature`, and what its function makes of them here.

    Args:
        name: For messages.
        signature: The signature.
        find: Gives held-out examples for an input that has no examples of its own.

    Raises:
        ExportError: An input takes no examples of the data and has none of its own, or the
            function fails or returns something else than a row for each row.
    """
    inputs = {
        spec.name: _examples(name, spec, signature.examples, find) for spec in signature.inputs
    }
    # There may be fewer of the user's than of the data's.
    n_rows = min(len(array) for array in inputs.values())
    inputs = {key: array[:n_rows] for key, array in inputs.items()}
    outputs = _called_for(name, lambda: signature.function(*map(tf.constant, inputs.values())))
    if not isinstance(outputs, Mapping) or not outputs:
        raise ExportError(
            f'signature "{name}": expected a dict of outputs, got {type(outputs).__name__}'
        )
    arrays = {str(key): np.asarray(value) for key, value in outputs.items()}
    for key, array in arrays.items():
        if array.ndim < 1 or len(array) != n_rows:
            raise ExportError(
                f'signature "{name}": output "{key}": expected a row for each of {n_rows} examples,'
                f" got shape {list(array.shape)}"
            )
    return Sample(inputs=inputs, outputs=arrays)


def held_out(raw: NDArray[Any], dataset: Dataset) -> Find:
    """Return what finds, among the examples `raw` of the data, those that an input takes.

    They are encoded, raw or prepared, as the input's dtype and shape say.
    """
    preparation = dataset.preparation

    def find(spec: Any) -> NDArray[Any] | None:
        # Features are float32 raw and prepared: prepared, as a model's are.
        prepared_shape = (len(raw), *preparation.model_shape)
        if spec.dtype == tf.float32 and spec.shape.is_compatible_with(prepared_shape):
            return preparation.apply(raw)
        if spec.dtype == tf.as_dtype(raw.dtype) and spec.shape.is_compatible_with(raw.shape):
            return raw
        if spec.dtype == tf.string and spec.shape.rank == 1 and preparation.decodable:
            return encode(raw, preparation)
        return None

    return find


def _as_custom(name: str, signature: Any) -> CustomSignature:
    if isinstance(signature, CustomSignature):
        return signature
    match signature:
        case (function, [*specs]) if callable(function):
            return CustomSignature(function=function, inputs=tuple(specs))
    if getattr(signature, "input_signature", None) is not None:
        concrete = _called_for(name, signature.get_concrete_function)
        specs, named = concrete.structured_input_signature
        if named:
            raise ExportError(f'signature "{name}": expected no keyword-only inputs')
        return CustomSignature(function=signature, inputs=tuple(specs))
    raise ExportError(
        f'signature "{name}": expected a tf.function with an input_signature, or a function and'
        f" a list of tf.TensorSpecs, got {type(signature).__name__}"
    )


def _checked(name: str, signature: CustomSignature) -> CustomSignature:
    for spec in signature.inputs:
        if not isinstance(spec, tf.TensorSpec) or not spec.name:
            raise ExportError(
                f'signature "{name}": expected inputs that are tf.TensorSpecs with names, got'
                f" {spec}"
            )
        if not spec.shape.rank or spec.shape[0] is not None:
            raise ExportError(
                f'signature "{name}": input "{spec.name}": expected an open batch dimension, got'
                f" {spec.shape}"
            )
    if not signature.inputs:
        raise ExportError(f'signature "{name}": expected at least one input')
    return signature


def _examples(name: str, spec: Any, given: Mapping[str, Any], find: Find) -> NDArray[Any]:
    where = f'signature "{name}": input "{spec.name}"'
    if spec.name in given:
        array = np.asarray(given[spec.name], spec.dtype.as_numpy_dtype)
        if not array.size or not spec.shape.is_compatible_with(array.shape):
            raise ExportError(f"{where}: expected examples {spec.shape}, got {list(array.shape)}")
        return array
    found = find(spec)
    if found is None:
        raise ExportError(
            f"{where}: no held-out example is {spec.dtype.name} {spec.shape}; give examples of it"
        )
    return found


def _called(function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Exception as error:
        raise ExportError(f"signatures: {_reason(error)}") from error


def _called_for(name: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:
        raise ExportError(f'signature "{name}": {_reason(error)}') from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:_MAX_REASON_LENGTH]
    return f"{type(error).__name__}: {text}"
