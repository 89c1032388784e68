"""Load a written version in a process of its own, and run samples through its signatures.

What a server will do, without anything that the training has left in this process: a custom
layer, an open variable, a setting. `python -m ladle.export.fresh FOLDER REQUESTS ANSWERS` is
that process; both files are TFRecords of PredictResponses, which hold tensors by name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
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


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What each signature gave, by name."""

    together: Mapping[str, Arrays]
    """For all its examples at once."""
    alone: Mapping[str, Arrays]
    """For the first of them, in a batch of one."""
    latency_ms: Mapping[str, float]
    """How long that took: the median over 20 runs."""


def run_in_fresh_process(folder: Path, requests: Mapping[str, Arrays]) -> Answers:
    """Load the version in `folder` in a new process, and return what it answers to `requests`.

    Blocks for as long as TensorFlow's import takes, seconds, and at most for ten minutes.

    Raises:
        CheckError: It does not load, or a signature is missing or fails.
    """
    with tempfile.TemporaryDirectory(prefix="ladle-check-") as scratch:
        asked, answered = Path(scratch, "requests"), Path(scratch, "answers")
        _write(asked, requests)
        files = [str(folder), str(asked), str(answered)]
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "ladle.export.fresh", *files],
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
        answers = _read(answered)
    names = list(requests)
    return Answers(
        together=dict(zip(names, answers[::2], strict=True)),
        alone=dict(zip(names, answers[1::2], strict=True)),
        latency_ms=json.loads(ended.stdout.splitlines()[-1]),
    )


def run_here(folder: Path, requests: Mapping[str, Arrays]) -> Answers:
    """Do the same in this process.

    Raises:
        CheckError: A signature is missing.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    together, alone, latency_ms = {}, {}, {}
    for name, inputs in requests.items():
        if name not in loaded.signatures:
            there = ", ".join(loaded.signatures)
            raise CheckError("signatures", f'signature "{name}": missing, the model has {there}')
        function = loaded.signatures[name]
        together[name] = _run(function, inputs)
        first = {key: array[:1] for key, array in inputs.items()}
        alone[name] = _run(function, first)
        latency_ms[name] = _median_ms(function, first)
    return Answers(together=together, alone=alone, latency_ms=latency_ms)


def _run(function: Any, inputs: Arrays) -> Arrays:
    import tensorflow as tf

    outputs = function(**{key: tf.constant(array) for key, array in inputs.items()})
    return {key: value.numpy() for key, value in outputs.items()}


def _median_ms(function: Any, inputs: Arrays) -> float:
    import tensorflow as tf

    given = {key: tf.constant(array) for key, array in inputs.items()}
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        function(**given)
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1000, 4)


def _write(path: Path, tensors: Mapping[str, Arrays]) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as records:
        for name, arrays in tensors.items():
            record = PredictResponse()
            record.model_spec.signature_name = name
            for key, array in arrays.items():
                record.outputs[key].CopyFrom(to_proto(array))
            records.write(record.SerializeToString())


def _read(path: Path) -> list[Arrays]:
    return [arrays for _, arrays in _read_named(path)]


def _read_named(path: Path) -> list[tuple[str, Arrays]]:
    import tensorflow as tf

    found: list[tuple[str, Arrays]] = []
    for text in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
        record = PredictResponse.FromString(text)
        arrays = {key: to_array(tensor) for key, tensor in record.outputs.items()}
        found.append((record.model_spec.signature_name, arrays))
    return found


def main(folder: str, asked: str, answered: str) -> None:
    """Answer the requests in the file `asked` into the file `answered`; print the latencies."""
    # As in a server, which has no Keras; half of the time that TensorFlow's import takes goes
    # to Keras, unless that can't be imported.
    sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        answers = run_here(Path(folder), dict(_read_named(Path(asked))))
    except Exception as error:
        raise SystemExit(" ".join(str(error).split())[:_MAX_REASON_LENGTH]) from None
    records = {}
    for name in answers.together:
        records[f"{name} together"] = answers.together[name]
        records[f"{name} alone"] = answers.alone[name]
    _write(Path(answered), records)
    print(json.dumps(answers.latency_ms))


if __name__ == "__main__":
    main(*sys.argv[1:])
