"""Check a version that is published already: its graph, and its own warm-up requests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ladle.export.errors import CheckError, DataError
from ladle.export.models.prepared_alike import check_alike, requests_to_compare
from ladle.export.publishing.card import read_card
from ladle.export.saved_model.operations import check_operations
from ladle.export.saved_model.signatures import EXAMPLES_INPUT
from ladle.export.saved_model.subprocess_check import Request, run_in_subprocess
from ladle.export.saved_model.warmup import WARMUP_PATH
from ladle.export.saved_model.warmup_from_log import MAX_RECORDS, signature_of
from ladle.protos.serving_pb import (
    ClassificationRequest,
    Input,
    PredictionLog,
    RegressionRequest,
)
from ladle.protos.tensors import to_array

# A context is copied for each of its Examples, and two bytes make one.
_MAX_REPEATED_BYTES = 64 << 20


def check_version(folder: Path, allowed_operations: Iterable[str] = ()) -> list[str]:
    """See that the version in `folder` loads and answers, and return the signatures that ran.

    Raises:
        CheckError: It does not load, its graph holds an operation that reaches out, or a request
            fails or gives numbers that are not finite.
    """
    try:
        check_operations(folder, allowed_operations)
    except DataError as error:
        raise CheckError("load", str(error)) from error
    requests = _read_warmup(folder)
    compared = requests_to_compare(read_card(folder))
    answers = run_in_subprocess(folder, [*requests, *compared])
    if compared:
        *answers, in_graph, by_client = answers
        check_alike(in_graph, by_client)
    for request, answer in zip(requests, answers, strict=True):
        for output, array in answer.outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                where = f'signature "{request.signature}": output "{output}"'
                raise CheckError("signatures", f"{where}: not finite")
    return list(dict.fromkeys(request.signature for request in requests))


def _read_warmup(folder: Path) -> list[Request]:
    import tensorflow as tf

    path = folder / WARMUP_PATH
    requests: list[Request] = []
    if not path.exists():
        return requests
    count = 0
    try:
        for text in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            count += 1
            if count > MAX_RECORDS:
                raise CheckError("warm-up", f"{path}: expected at most {MAX_RECORDS} records")
            request = _request(PredictionLog.FromString(text))
            if request is not None:
                requests.append(request)
    except CheckError:
        raise
    except Exception as error:  # TensorFlow's, protobuf's and ours share no base
        raise CheckError("warm-up", f"{path}: cannot be read") from error
    if not count and path.stat().st_size:  # too short for a record's header
        raise CheckError("warm-up", f"{path}: cannot be read")
    return requests


def _request(log: PredictionLog) -> Request | None:
    """Return what a record asks for; None for what asks for nothing that runs here."""
    match log.WhichOneof("log_type"):
        case "predict_log":
            asked = log.predict_log.request
            inputs = {key: to_array(tensor) for key, tensor in asked.inputs.items()}
            return Request(signature=signature_of(asked.model_spec), inputs=inputs)
        case "classify_log":
            return _of_examples(log.classify_log.request)
        case "regress_log":
            return _of_examples(log.regress_log.request)
        case "multi_inference_log" | None:
            return None  # the one runs several signatures at once, as only a server does
        case kind:
            raise CheckError("warm-up", f"a {kind} can't be replayed")


def _of_examples(asked: ClassificationRequest | RegressionRequest) -> Request:
    return Request(
        signature=signature_of(asked.model_spec),
        inputs={EXAMPLES_INPUT: np.array(_examples(asked.input), np.object_)},
    )


def _examples(given: Input) -> list[bytes]:
    """Return the Examples, serialised; a context's features come before each one's own."""
    if given.WhichOneof("kind") != "example_list_with_context":
        return [example.SerializeToString() for example in given.example_list.examples]
    context = given.example_list_with_context.context.SerializeToString()
    examples = given.example_list_with_context.examples
    if len(context) * len(examples) > _MAX_REPEATED_BYTES:
        raise CheckError("warm-up", f"expected contexts of {_MAX_REPEATED_BYTES} bytes in all")
    return [context + example.SerializeToString() for example in examples]
