"""Load a written version in a process of its own, and run samples through its signatures.

What a server will do, without anything that the training has left in this process: a custom
layer, an open variable, a setting. That process runs `main(FOLDER, REQUESTS, ANSWERS)`; both files
are PredictResponses, which hold tensors by name, each after its length.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.errors import CheckError
from ladle.protos.serving_pb import PredictResponse
from ladle.protos.tensors import to_array, to_proto

Arrays = Mapping[str, NDArray[Any]]

LOAD_TIMEOUT_S = 600
_TIMED_RUNS = 20
_MAX_REASON_LENGTH = 1000
_LENGTH = struct.Struct("<Q")
# Python begins its path with the working folder here, which may be anybody's: a file that is named
# as one of Python's modules would run.
_PROGRAM = """
import sys
sys.path[:] = filter(None, sys.path)
from ladle.export.saved_model.subprocess_check import main
main(*sys.argv[1:])
"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Inputs of a signature, by name."""

    signature: str
    inputs: Arrays
    timed: bool = False
    """Whether to measure how long it takes."""
    may_fail: bool = False
    """Whether a failure is an answer, and not the end of the check."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the signature gave."""

    outputs: Arrays
    """Empty where a request failed that may fail."""
    latency_ms: float | None
    """The median over 20 runs; None unless it was asked for."""


def run_in_subprocess(folder: Path, requests: Sequence[Request]) -> list[Answer]:
    """Load the version in `folder` in a new process, and return its answer to each request.

    Blocks for as long as TensorFlow's import takes, seconds, and at most for ten minutes.

    Raises:
        CheckError: It does not load, or a signature is missing or fails; or there is no room for
            temporary files.
    """
    try:
        return _run_in_subprocess(folder, requests)
    except OSError as error:
        reason = f"{tempfile.gettempdir()}: {error.strerror or error}"
        raise CheckError("load", f"for a process of its own: {reason}") from error


def _run_in_subprocess(folder: Path, requests: Sequence[Request]) -> list[Answer]:
    with tempfile.TemporaryDirectory(prefix="ladle-check-") as scratch:
        asked, answered = Path(scratch, "requests"), Path(scratch, "answers")
        _write(asked, requests)
        files = [str(folder), str(asked), str(answered)]
        try:
            ended = subprocess.run(
                [sys.executable, "-c", _PROGRAM, *files],
                capture_output=True,
                text=True,
                errors="replace",
                env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
                timeout=LOAD_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise CheckError("load", f"took longer than {LOAD_TIMEOUT_S} s") from error
        if ended.returncode:
            said = ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"]
            raise CheckError("load", f"in a process of its own: {said[-1]}")
        latencies = json.loads(ended.stdout.splitlines()[-1])
        answers = [answer.inputs for answer in _read(answered)]
    return [
        Answer(outputs=outputs, latency_ms=latency)
        for outputs, latency in zip(answers, latencies, strict=True)
    ]


def run_in_this_process(folder: Path, requests: Iterable[Request]) -> list[Answer]:
    """Do the same in this process.

    Raises:
        CheckError: A signature is missing.
    """
    import tensorflow as tf

    signatures = tf.saved_model.load(str(folder)).signatures
    answers = []
    for request in requests:
        if request.signature not in signatures:
            there = ", ".join(signatures)
            raise CheckError(
                "signatures", f'signature "{request.signature}": missing, the model has {there}'
            )
        answers.append(_answer(signatures[request.signature], request))
    return answers


def _answer(function: Any, request: Request) -> Answer:
    import tensorflow as tf

    given = {key: tf.constant(array) for key, array in request.inputs.items()}
    try:
        outputs = {key: value.numpy() for key, value in function(**given).items()}
    except (tf.errors.OpError, ValueError, TypeError):
        if not request.may_fail:
            raise
        return Answer(outputs={}, latency_ms=None)
    times = []
    for _ in range(_TIMED_RUNS if request.timed else 0):
        start = time.perf_counter()
        function(**given)
        times.append(time.perf_counter() - start)
    latency_ms = round(float(np.median(times)) * 1000, 4) if times else None
    return Answer(outputs=outputs, latency_ms=latency_ms)


def _write(path: Path, requests: Iterable[Request]) -> None:
    with path.open("wb") as file:
        for request in requests:
            record = PredictResponse()
            record.model_spec.signature_name = request.signature
            record.model_spec.version.value = request.timed + 2 * request.may_fail
            for key, array in request.inputs.items():
                record.outputs[key].CopyFrom(to_proto(array))
            content = record.SerializeToString()
            file.write(_LENGTH.pack(len(content)))
            file.write(content)


def _read(path: Path) -> Iterator[Request]:
    with path.open("rb") as file:
        while length := file.read(_LENGTH.size):
            record = PredictResponse.FromString(file.read(_LENGTH.unpack(length)[0]))
            arrays = {key: to_array(tensor) for key, tensor in record.outputs.items()}
            spec = record.model_spec
            yield Request(
                signature=spec.signature_name,
                inputs=arrays,
                timed=bool(spec.version.value & 1),
                may_fail=bool(spec.version.value & 2),
            )


def main(folder: str, asked: str, answered: str) -> None:
    """Answer the requests in the file `asked` into the file `answered`; print the latencies."""
    # As in a server, which has no Keras; half of the time that TensorFlow's import takes goes
    # to Keras, unless that can't be imported.
    sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        answers = run_in_this_process(Path(folder), _read(Path(asked)))
        _write(Path(answered), (Request(signature="", inputs=a.outputs) for a in answers))
    except Exception as error:
        raise SystemExit(" ".join(str(error).split())[:_MAX_REASON_LENGTH]) from None
    print(json.dumps([answer.latency_ms for answer in answers]))
