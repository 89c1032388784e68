"""A Keras model of the user's own: made by a function, or saved in a file."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from pathlib import Path
from typing import Any

from ladle.export.data.dataset import Dataset
from ladle.export.errors import ExportError

_SAVED = (".keras", ".h5")


def load_model(spec: Any, dataset: Dataset, *, allow_unsafe: bool = False) -> Any:
    """Return the keras.Model that `spec` is or names, see `read_model`, if it fits the data.

    A function is called with the shape of a prepared example and the number of classes, or of the
    numbers that a regression predicts.

    Raises:
        ExportError: There is no such model, it cannot be had, or it does not fit the data.
    """
    arguments = (dataset.preparation.model_shape, dataset.n_outputs)
    model = read_model(spec, arguments, allow_unsafe=allow_unsafe)
    _check_fits(name_of(spec), model, dataset)
    return model


def read_model(spec: Any, arguments: tuple[Any, ...], *, allow_unsafe: bool = False) -> Any:
    """Return the keras.Model that `spec` is or names.

    Args:
        spec: A keras.Model; `package.module:function`; or the path of a `.keras` or `.h5` file.
        arguments: What the function is called with; with nothing where it takes nothing.
        allow_unsafe: Load a file that brings Python code of its own, and so run that code.

    Raises:
        ExportError: There is no such model, or it cannot be had.
    """
    import keras

    if isinstance(spec, keras.Model):
        return spec
    if not isinstance(spec, str | os.PathLike):
        raise ExportError(f"model: expected a keras.Model or where one is, got {type(spec)}")
    spec = os.fspath(spec)
    if Path(spec).suffix.lower() in _SAVED:
        return _load_file(Path(spec), allow_unsafe=allow_unsafe)
    if ":" in spec:
        return _call_factory(spec, arguments)
    raise ExportError(
        f"model: expected package.module:function or a .keras or .h5 file, got {spec}"
    )


def name_of(spec: Any) -> str:
    """Return what messages and the model card call the model that `spec` is or names."""
    if isinstance(spec, str | os.PathLike):
        return os.fspath(spec)
    return f"keras.Model {getattr(spec, 'name', type(spec).__name__)}"


def _load_file(path: Path, *, allow_unsafe: bool) -> Any:
    import keras

    if not path.is_file():
        raise ExportError(f"model: {path} is not there")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not allow_unsafe)
    except Exception as error:  # Keras raises whatever a damaged or strange file leads to
        unsafe = "" if allow_unsafe else "; if you trust it: --allow-unsafe-model"
        raise ExportError(
            f"model: {path} does not load: {_reason(error)}{_advice(error, unsafe)}"
        ) from error


def _advice(error: Exception, unsafe: str) -> str:
    """Return what to do about a model that does not load."""
    text = str(error)
    unknown = re.search(r"Could not locate class '(\w+)'|Unknown (?:layer|object): '?(\w+)'?", text)
    if unknown:
        name = unknown[1] or unknown[2]
        return (
            f"; {name} is a class of your own: write a function that imports it and loads the file,"
            " and give it as --model package.module:function"
        )
    return unsafe


def import_function(what: str, spec: str) -> Any:
    """Return the function that `package.module:function` names; `what` it is for a message.

    Raises:
        ExportError: It can't be imported.
    """
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # whatever the user's module raises
        raise ExportError(f"{what}: {spec} cannot be imported: {error}") from error
    if not callable(function):
        raise ExportError(f"{what}: expected {spec} to be a function, got {type(function)}")
    return function


def _call_factory(spec: str, arguments: tuple[Any, ...]) -> Any:
    function = import_function("model", spec)
    try:
        return function(*arguments) if inspect.signature(function).parameters else function()
    except Exception as error:
        raise ExportError(f"model: {spec} failed: {_reason(error)}") from error


def _check_fits(spec: str, model: Any, dataset: Dataset) -> None:
    import keras

    from ladle.export.training.outputs import model_input

    if not isinstance(model, keras.Model):
        raise ExportError(f"model: expected {spec} to give a keras.Model, got {type(model)}")
    expected = dataset.preparation.model_shape
    outputs = dataset.n_outputs
    takes = getattr(model, "input_shape", (None, *expected))  # a subclass doesn't tell
    is_column = dataset.preparation.are_texts and _matches(takes, (None, 1))
    if not _matches(takes, (None, *expected)) and not is_column:
        raise ExportError(
            f"model: {spec} takes {_shown(takes)}, and prepared examples of"
            f" {dataset.name} are {list(expected)}"
        )
    try:
        given = model(model_input(model, dataset))
    except Exception as error:  # whatever the user's code or Keras raises
        raise ExportError(
            f"model: {spec} fails on prepared examples of {dataset.name}, {list(expected)}:"
            f" {_reason(error)}"
        ) from error
    gives = getattr(given, "shape", given)
    dtype = str(getattr(given, "dtype", "float32"))
    if not dtype.startswith(("float", "bfloat")):
        raise ExportError(
            f"model: {spec} gives {dtype}, expected floats: logits, probabilities or values"
        )
    if len(dataset.labels) == 2 and _matches(gives, (None, 1)):
        return  # the second class alone; as_served adds the first
    if not _matches(gives, (None, outputs)):
        raise ExportError(
            f"model: {spec} gives {_shown(gives)}, expected"
            f" {_shown((None, outputs))} for {dataset.name}"
        )


def _reason(error: Exception) -> str:
    plain = re.sub("\x1b\\[[0-9;]*m", "", str(error))  # Keras writes for a terminal
    return f"{type(error).__name__}: {' '.join(plain.split())[:300]}"


def _matches(declared: Any, shape: tuple[int | None, ...]) -> bool:
    return (
        isinstance(declared, tuple)
        and len(declared) == len(shape)
        and all(size is None or size == have for size, have in zip(declared, shape, strict=True))
    )


def _shown(shape: Any) -> str:
    if not isinstance(shape, tuple):
        return str(shape)
    return str([-1 if size is None else size for size in shape])
