"""PredictionService.Classify: for each Example its classes, with labels and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes, wire
from ladle.protos.serving_pb import Class, ClassificationResult, Classifications, InferenceResult
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Arrays, Signature
from ladle.server.rpc.inference.interpretation import (
    MESSAGES_AT_ONCE,
    ExamplesMethod,
    Interpretation,
)
from ladle.server.rpc.request import CLASSIFY_METHOD

_CLASSES = "classes"
_SCORES = "scores"
_FLOAT = dtypes.from_numpy(np.dtype(np.float32))


def classify(*, check_method_names: bool) -> ExamplesMethod:
    """Return Classify; `check_method_names`: whether a signature has to be of its kind."""
    return ExamplesMethod(
        path="/tensorflow.serving.PredictionService/Classify",
        request_name="tensorflow.serving.ClassificationRequest",
        interpretation=CLASSIFICATION,
        check_method_names=check_method_names,
    )


def _outputs(signature: Signature) -> tuple[str, ...]:
    if len(signature.outputs) not in (1, 2):
        raise InvalidArgument(
            f"Expected one or two output Tensors, found {len(signature.outputs)} in signature "
            f"{signature.name!r}: {list(signature.outputs)}"
        )
    wanted = tuple(alias for alias in (_CLASSES, _SCORES) if alias in signature.outputs)
    if not wanted:
        raise InvalidArgument(
            f"Expected classification signature outputs to contain at least one of "
            f"{_CLASSES!r} or {_SCORES!r}. Signature {signature.name!r} has "
            f"{list(signature.outputs)}"
        )
    return wanted


def _result(outputs: Arrays, examples: int) -> list[wire.Piece]:
    classes = _checked(outputs, _CLASSES, dtypes.STRING, examples)
    scores = _checked(outputs, _SCORES, _FLOAT, examples)
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise InvalidArgument(
            f"Tensors {_CLASSES} and {_SCORES} should match in dim_size(1): "
            f"got {classes.shape[1]} and {scores.shape[1]}"
        )
    columns = [array for array in (classes, scores) if array is not None]
    at_once = max(1, MESSAGES_AT_ONCE // max(1, columns[0].shape[1]))
    return [
        _serialized(*(None if a is None else a[start : start + at_once] for a in (classes, scores)))
        for start in range(0, examples, at_once)
    ]


def _serialized(classes: NDArray[Any] | None, scores: NDArray[Any] | None) -> bytes:
    if classes is None:
        assert scores is not None  # the signature has one or the other
        rows = ([Class(score=s) for s in row] for row in scores.tolist())
    elif scores is None:
        rows = ([Class(label=_text(c)) for c in row] for row in classes.tolist())
    else:
        pairs = zip(classes.tolist(), scores.tolist(), strict=True)
        rows = (
            [Class(label=_text(c), score=s) for c, s in zip(*pair, strict=True)] for pair in pairs
        )
    listed = [Classifications(classes=row) for row in rows]
    return ClassificationResult(classifications=listed).SerializeToString()


def _checked(outputs: Arrays, alias: str, data_type: int, examples: int) -> NDArray[Any] | None:
    array = outputs.get(alias)
    if array is None:
        return None
    given = dtypes.from_numpy(array.dtype)
    if given != data_type or array.ndim != 2 or array.shape[0] != examples:
        raise InvalidArgument(
            f"output {alias!r}: expected {dtypes.name(data_type)} [{examples}, number of classes], "
            f"the model gave {dtypes.name(given)} {list(array.shape)}"
        )
    return array


def _text(label: bytes | str) -> str:
    # A label is text on the wire; a model's bytes need not be.
    return label if isinstance(label, str) else label.decode(errors="replace")


CLASSIFICATION = Interpretation(
    kind="classification",
    method_name=CLASSIFY_METHOD,
    outputs=_outputs,
    result_field=InferenceResult.CLASSIFICATION_RESULT_FIELD_NUMBER,
    result=_result,
)
