"""Examples for a model that is exported without data: they show that it runs, and no more."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import AS_IT_IS, BYTE_PIXELS, Dataset
from ladle.export.errors import ExportError

_EXAMPLES = 16
_CHANNELS = (1, 3, 4)
_WORDS = ("", "a", "the", "one", "two words", "Three more words")
_SEED = 11


def made_up_data(
    model: Any,
    labels: tuple[str, ...],
    *,
    are_images: bool,
) -> Dataset:
    """Return made-up examples for a Keras model with one input and one output.

    A model of images with 1, 3 or 4 channels gets raw pixels, one of texts texts, and any other
    numbers. Several sigmoids are labels, and an example may have more than one.

    Args:
        model: The model.
        labels: The names of its classes or labels; none for a regression.
        are_images: Whether an input [height, width] is a picture.

    Raises:
        ExportError: The model takes or gives something else.
    """
    shape, dtype = _input_of(model)
    rng = np.random.default_rng(_SEED)
    normalization = AS_IT_IS
    examples: NDArray[Any]
    if dtype == "string":
        if shape not in ((), (1,)):
            raise ExportError(f"model: expected texts [-1], it takes {_shown(shape)}")
        examples = np.array([rng.choice(_WORDS) for _ in range(_EXAMPLES)], object)
    elif _is_picture(shape, are_images):
        _check_size(shape)
        examples = rng.integers(0, 256, (_EXAMPLES, *shape)).astype(np.uint8)
        normalization = BYTE_PIXELS
    else:
        _check_size(shape)
        examples = rng.normal(size=(_EXAMPLES, *shape)).astype(np.float32)
        if not dtype.startswith(("float", "bfloat")):
            examples = rng.integers(0, 2, examples.shape).astype(np.float32)
    targets = _targets(model, labels)
    return Dataset(
        name="no data",
        x_train=examples,
        y_train=targets,
        x_test=examples,
        y_test=targets,
        labels=labels,
        normalization=normalization,
        notes=("exported without data: nothing was measured",),
        is_made_up=True,
    )


def _input_of(model: Any) -> tuple[tuple[Any, ...], str]:
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ExportError("model: doesn't say what it takes: give --data, or save it built")
    if len(inputs) > 1:
        raise ExportError("model: has several inputs: give --data, with arrays by their names")
    return tuple(inputs[0].shape[1:]), str(inputs[0].dtype)


def _check_size(shape: tuple[Any, ...]) -> None:
    if None in shape or not shape:
        raise ExportError(f"model: takes {_shown(shape)}: give --data, whose examples have a size")


def _is_picture(shape: tuple[Any, ...], are_images: bool) -> bool:
    if len(shape) == 3:
        return shape[2] in _CHANNELS
    return len(shape) == 2 and are_images


def _targets(model: Any, labels: tuple[str, ...]) -> NDArray[Any]:
    """Return targets that say what kind the task is, and nothing more."""
    from ladle.export.training.outputs import last_activation

    width = getattr(model, "output_shape", (None,))[-1]
    if not labels:
        one = np.zeros(_EXAMPLES, np.float32)
        return one if width in (None, 1) else np.tile(one[:, np.newaxis], width)
    if last_activation(model) == "sigmoid" and width == len(labels):
        return np.zeros((_EXAMPLES, len(labels)), np.int64)
    return np.zeros(_EXAMPLES, np.int64)


def _shown(shape: tuple[Any, ...]) -> str:
    return str([-1, *(-1 if size is None else size for size in shape)])
