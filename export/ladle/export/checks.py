"""What has to hold of a written model before it is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.errors import CheckError

TOLERANCE = 1e-5

Predict = Callable[[NDArray[Any]], NDArray[np.float32]]


def check_signatures(
    signatures: Mapping[str, Predict],
    inputs: Mapping[str, NDArray[Any]],
    expected: NDArray[np.float32],
) -> None:
    """See that every signature in `inputs` answers as the trained model does.

    Each is asked for all the images at once and for the first alone, as its batch dimension is
    open.

    Args:
        signatures: Those of the written model, by name.
        inputs: For each signature that must be there the same images, as it takes them.
        expected: The trained model's own probabilities for them, [images, classes].

    Raises:
        CheckError: A signature is missing, differs by more than 1e-5, or gives rows that do not
            sum to 1 within 1e-5.
    """
    for name, images in inputs.items():
        if name not in signatures:
            raise CheckError(f'signature "{name}": missing, the model has {", ".join(signatures)}')
        for n_images in (len(images), 1):
            answer = signatures[name](images[:n_images])
            _check_probabilities(name, answer, expected[:n_images])


def _check_probabilities(
    name: str, answer: NDArray[np.float32], expected: NDArray[np.float32]
) -> None:
    if answer.shape != expected.shape:
        raise CheckError(
            f'signature "{name}": expected shape {list(expected.shape)}, got {list(answer.shape)}'
        )
    # Written so that NaN, which no comparison holds for, fails.
    off = float(np.max(np.abs(answer - expected)))
    if not off <= TOLERANCE:
        raise CheckError(
            f'signature "{name}": expected the trained model\'s probabilities within {TOLERANCE:g},'
            f" got a difference of {off:g}"
        )
    off = float(np.max(np.abs(answer.sum(axis=1, dtype=np.float64) - 1)))
    if not off <= TOLERANCE:
        raise CheckError(
            f'signature "{name}": expected rows that sum to 1 within {TOLERANCE:g},'
            f" got one that is off by {off:g}"
        )
