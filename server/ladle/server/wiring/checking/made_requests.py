"""Requests to a signature for which nobody has recorded one: values that most models take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.protos.serving_pb import PredictionLog
from ladle.protos.tensorflow_pb import Example
from ladle.protos.tensors import to_proto
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.rpc.request import CLASSIFY_METHOD, REGRESS_METHOD
from ladle.server.wiring.checking.example_features import Features, make_example

# Dimensions that are open, beside the first: short, and as long as convolutions need.
_SIDES = (1, 8, 32, 224)
_FILLS = (1, 0)
# A picture of one pixel, as a PNG file.
_PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c4944415478da63606060000000040001c8eaebf90000000049454e44ae426082"
)
_TEXTS = (b"a", b"1", _PICTURE, b"")
_MAX_ELEMENTS = 1 << 24


class Guess(NamedTuple):
    """What fills the inputs of a request, whatever its number of rows."""

    side: int
    """The size of dimensions that are open, beside the first."""
    fill: int
    """The value of each number."""
    text: bytes
    """The value of each string."""
    example: Example | None
    """What `text` holds, where it is a serialized Example."""


def guesses(signature: Signature, parsed: Sequence[Features]) -> Iterator[Guess]:
    """Yield what may suit a signature, the likeliest first; some hundreds at most.

    Args:
        signature: the signature.
        parsed: what the graph reads of Examples, by `example_features`.
    """
    specs = signature.inputs.values()
    has_numbers = any(spec.data_type != dtypes.STRING for spec in specs)
    texts: list[tuple[bytes, Example | None]] = [(b"", None)]
    if takes_strings(signature):
        examples = [make_example(f, text) for f in parsed for text in (b"a", _PICTURE)]
        texts = [(example.SerializeToString(), example) for example in examples]
        texts += [(text, None) for text in _TEXTS]
    sides = _SIDES if has_open_sides(signature) else _SIDES[:1]
    fills = _FILLS if has_numbers else _FILLS[:1]
    for side, (text, example), fill in itertools.product(sides, texts, fills):
        yield Guess(side, fill, text, example)


def made_request(signature: Signature, guess: Guess, rows: int) -> PredictionLog | None:
    """Return a request of so many rows, as a warm-up file has it.

    None if its inputs are too large to be made, or of a dtype that no request carries.
    """
    log = PredictionLog()
    if guess.example is not None and signature.method_name in (CLASSIFY_METHOD, REGRESS_METHOD):
        is_regression = signature.method_name == REGRESS_METHOD
        request = log.regress_log.request if is_regression else log.classify_log.request
        request.model_spec.signature_name = signature.name
        request.input.example_list.examples.extend([guess.example] * rows)
        return log
    predict = log.predict_log.request
    predict.model_spec.signature_name = signature.name
    predict.output_filter.extend(n for n, s in signature.outputs.items() if not s.unanswerable)
    for alias, spec in signature.inputs.items():
        array = _array(spec, guess, rows)
        if array is None:
            return None
        predict.inputs[alias].CopyFrom(to_proto(array))
    return log


def takes_strings(signature: Signature) -> bool:
    """Whether any input is of strings."""
    return any(spec.data_type == dtypes.STRING for spec in signature.inputs.values())


def has_open_sides(signature: Signature) -> bool:
    """Whether any input leaves open more than its first dimension."""
    return any(spec.shape is None or -1 in spec.shape[1:] for spec in signature.inputs.values())


def _array(spec: TensorSpec, guess: Guess, rows: int) -> NDArray[Any] | None:
    declared: Sequence[int] = (-1,) if spec.shape is None else spec.shape
    sizes = (rows, *itertools.repeat(guess.side, len(declared)))
    shape = [made if side == -1 else side for side, made in zip(declared, sizes, strict=False)]
    if math.prod(shape) > _MAX_ELEMENTS:
        return None
    try:
        dtype = dtypes.to_numpy(spec.data_type)
    except dtypes.UnsupportedDtype:
        return None
    if spec.data_type == dtypes.STRING:
        # Of a single string numpy would drop zeros at the end.
        return np.array([guess.text] * math.prod(shape), object).reshape(shape)
    array: NDArray[Any] = np.zeros(shape, dtype)
    if guess.fill and dtype.names is None:
        array += np.ones((), dtype)
    return array
