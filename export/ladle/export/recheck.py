"""Check a version that is published already: its graph, and its own warm-up requests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ladle.export.errors import CheckError
from ladle.export.fresh import run_in_fresh_process
from ladle.export.operations import check_operations
from ladle.export.samples import Arrays
from ladle.export.signatures import EXAMPLES_INPUT
from ladle.export.warmup import WARMUP_PATH
from ladle.protos.serving_pb import PredictionLog
from ladle.protos.tensors import to_array


def check_version(folder: Path, allowed_operations: Iterable[str] = ()) -> list[str]:
    """See that the version in `folder` loads and answers, and return the signatures that ran.

    Raises:
        CheckError: It does not load, its graph holds an operation that reaches out, or a request
            fails or gives numbers that are not finite.
    """
    if not (folder / "saved_model.pb").is_file():
        raise CheckError("load", f"{folder}: expected saved_model.pb")
    check_operations(folder, allowed_operations)
    requests = _read_warmup(folder)
    answers = run_in_fresh_process(folder, requests)
    for name, outputs in answers.together.items():
        for output, array in outputs.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CheckError("signatures", f'signature "{name}": output "{output}": not finite')
    return list(requests)


def _read_warmup(folder: Path) -> dict[str, Arrays]:
    import tensorflow as tf

    path = folder / WARMUP_PATH
    requests: dict[str, Arrays] = {}
    if not path.exists():
        return requests
    try:
        for text in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = PredictionLog.FromString(text)
            if log.WhichOneof("log_type") == "multi_inference_log":
                continue  # runs several signatures at once, as only a server does
            name, inputs = _request(log)
            requests[name] = inputs
    except Exception as error:  # TensorFlow's, protobuf's and ours share no base
        raise CheckError("warm-up", f"{path}: cannot be read") from error
    if not requests and path.stat().st_size:  # too short for a record's header
        raise CheckError("warm-up", f"{path}: cannot be read")
    return requests


def _request(log: PredictionLog) -> tuple[str, Arrays]:
    if log.WhichOneof("log_type") == "predict_log":
        request = log.predict_log.request
        inputs = {key: to_array(tensor) for key, tensor in request.inputs.items()}
        return request.model_spec.signature_name, inputs
    asked = getattr(log, str(log.WhichOneof("log_type"))).request
    examples = [example.SerializeToString() for example in asked.input.example_list.examples]
    return asked.model_spec.signature_name, {EXAMPLES_INPUT: np.array(examples, np.object_)}
