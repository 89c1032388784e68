"""Load a written version in a process of its own, and run samples through its signatures.

What a server will do, by the server's own loader, without anything that the training has left in
this process: a custom layer, an open variable, a setting. That process runs
`ladle.server.wiring.checking.program`: it takes an order and gives a report, both as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.export.errors import CheckError
from ladle.protos.files.records import frame, read_records
from ladle.protos.serving_pb import PredictRequest, PredictResponse
from ladle.protos.tensors import to_array, to_proto

Arrays = Mapping[str, NDArray[Any]]

LOAD_TIMEOUT_S = 600
# Python begins its path with the working folder here, which may be anybody's: a file that is named
# as one of Python's modules would run.
_PROGRAM = """
import sys
sys.path[:] = filter(None, sys.path)
from ladle.server.wiring.checking.program import main
main()
"""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a version is loaded: flags of `ladle serve`, under its names."""

    import_modules: str = ""
    """Comma-separated Python modules that register operations, imported before it loads."""
    prefer_tflite_model: bool = False
    """Whether model.tflite is loaded where the version brings one."""
    saved_model_tags: str = "serve"
    """Comma-separated tags of the graph to load."""


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


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the process found out about a version that loads."""

    answers: list[Answer]
    """To the requests, in their order."""
    warmed_up: list[str]
    """Signatures that the version's own warm-up requests ran."""
    made: list[str] = field(default_factory=list)
    """Signatures that ran on made inputs."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Signatures that took none of the made inputs, and why."""
    warnings: Sequence[str] = ()
    """What a server's log would say of the version."""


Program = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Takes an order and returns the report; blocks."""


def run_in_subprocess(
    folder: Path, requests: Sequence[Request], loading: Loading | None = None
) -> list[Answer]:
    """Load the version in `folder` in a new process, and return its answer to each request.

    Blocks for as long as TensorFlow's import takes, seconds, and at most for ten minutes.

    Raises:
        CheckError: It does not load, or a signature is missing or fails; or there is no room for
            temporary files.
    """
    return check(folder, requests, loading).answers


def check(
    folder: Path,
    requests: Sequence[Request] = (),
    loading: Loading | None = None,
    *,
    every_signature: bool = False,
    program: Program | None = None,
) -> Checked:
    """Do the same, and return all that was found out.

    Args:
        folder: the version's.
        requests: run after the version's own warm-up requests.
        loading: how it is loaded.
        every_signature: whether signatures that no warm-up request has run, run on made inputs.
        program: what does the work; a new process unless given.

    Raises:
        CheckError: As `run_in_subprocess`; or the warm-up fails, gives numbers that are not finite,
            or a signature fails on made inputs.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="ladle-check-") as scratch:
            asked, answered = Path(scratch, "requests"), Path(scratch, "answers")
            _write(asked, requests)
            order = {
                "folder": str(folder),
                "flags": asdict(loading or Loading()),
                "requests": str(asked),
                "answers": str(answered),
                "timed": [index for index, request in enumerate(requests) if request.timed],
                "every_signature": every_signature,
            }
            report = (program or _run_program)(order)
            if report["stage"]:
                raise CheckError(report["stage"], report["reason"])
            outputs = [_read(data) for data in read_records(answered)]
    except OSError as error:
        reason = f"{tempfile.gettempdir()}: {error.strerror or error}"
        raise CheckError("load", f"for a process of its own: {reason}") from error
    for request, failure in zip(requests, report["errors"], strict=True):
        if failure and not request.may_fail:
            raise CheckError("signatures", failure)
    return Checked(
        answers=[
            Answer(outputs=arrays, latency_ms=latency)
            for arrays, latency in zip(outputs, report["latencies_ms"], strict=True)
        ],
        warmed_up=report["warmed_up"],
        made=report["made"],
        refused=report["refused"],
        warnings=report["warnings"],
    )


def _run_program(order: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        ended = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
            timeout=LOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise CheckError("load", f"took longer than {LOAD_TIMEOUT_S} s") from error
    if ended.returncode or not ended.stdout:
        said = ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"]
        raise CheckError("load", f"in a process of its own: {said[-1]}")
    report: Mapping[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return report


def _write(path: Path, requests: Iterable[Request]) -> None:
    with path.open("wb") as file:
        for request in requests:
            message = PredictRequest()
            message.model_spec.signature_name = request.signature
            for key, array in request.inputs.items():
                message.inputs[key].CopyFrom(to_proto(np.asarray(array)))
            file.write(frame(message.SerializeToString()))


def _read(data: bytes) -> Arrays:
    outputs = PredictResponse.FromString(data).outputs
    return {key: to_array(tensor) for key, tensor in outputs.items()}
