"""Warm-up: runs the requests that a version brings, before anyone else's.

They go to the model itself, not through the batch queue, in which they would wait for each other
and only ever meet small batches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos.ladle_pb import SerializedInput
from ladle.protos.serving_pb import (
    ClassificationRequest,
    Input,
    PredictionLog,
    RegressionRequest,
)
from ladle.server.core.errors import InvalidArgument, ServingError, Unimplemented
from ladle.server.core.observation import Loading, Observer
from ladle.server.core.servable import Arrays, Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.inference import multi_inference
from ladle.server.rpc.inference.classify import CLASSIFICATION
from ladle.server.rpc.inference.interpretation import INPUT, Interpretation
from ladle.server.rpc.inference.regress import REGRESSION
from ladle.server.rpc.prediction import predict
from ladle.server.rpc.request import Invocation, parse
from ladle.server.warmup.records import read_records

logger = logging.getLogger(__name__)

WARMUP_PATH = Path("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000

_Check = Callable[[Arrays], object]


@dataclass(frozen=True, kw_only=True)
class WarmupOptions:
    """How much of it is done."""

    iterations: int = 1
    """How often each request runs as it is."""
    batch_sizes: tuple[int, ...] = ()
    """Rows with which each signature runs besides, where its rows can be batched."""
    check_method_names: bool = False
    """As for the requests of callers."""
    longest_s: float = 0.0
    """After so long no further request is begun; 0 runs all."""
    slow_after_s: float = 60.0
    """When the log says that it still runs: the version can't be served before it ends."""


def warm_up(
    servable_id: ServableId,
    path: Path,
    servable: Model,
    options: WarmupOptions,
    observer: Observer | None = None,
) -> int:
    """Replay the warm-up requests in a version's folder, and return how many have run; blocks.

    Their model names and versions are not looked at: they are for this version, whatever it is
    called by now.

    Raises:
        ServingError: The file is damaged, has more than MAX_RECORDS records or ones that can't be
            replayed, or the model refuses a request. The version should not be served then.
    """
    file = path / WARMUP_PATH
    started = time.monotonic()
    count = 0
    seen: set[object] = set()
    failure: ServingError | None = None

    def complain() -> None:
        logger.warning(
            "the warm-up still runs, and the version is not served before its end "
            "model=%s version=%d record=%d since_s=%.0f",
            *servable_id,
            count,
            options.slow_after_s,
        )

    slow = threading.Timer(options.slow_after_s, complain)
    slow.daemon = True
    try:
        for data in read_records(file):
            if not count:
                with suppress(RuntimeError):  # no thread to be had: there is nobody to complain
                    slow.start()
            if count and 0 < options.longest_s <= time.monotonic() - started:
                logger.info(
                    "the warm-up ends before its last request model=%s version=%d records=%d",
                    *servable_id,
                    count,
                )
                break
            count += 1
            if count > MAX_RECORDS:
                raise InvalidArgument(f"expected at most {MAX_RECORDS} warm-up records, got more")
            log = parse(PredictionLog, data)
            plan = planned(log, servable, servable_id, strict=options.check_method_names)
            if plan is not None:
                _replay(*plan, servable, options, seen)
    except FileNotFoundError:
        return 0
    except OSError as error:
        failure = ServingError(f"{servable_id}: {file} can't be read: {error}")
        raise failure from error
    except ServingError as error:
        failure = ServingError(
            f"{servable_id}: warm-up failed at record {count} of {file}: {error.message}",
            error.code,
        )
        raise failure from error
    finally:
        slow.cancel()
        elapsed_s = time.monotonic() - started
        if observer is not None and (count or failure):
            observer.warmup_ended(Loading(servable_id, path, elapsed_s, failure), count)
    logger.info(
        "warmed up model=%s version=%d records=%d took_s=%.2f", *servable_id, count, elapsed_s
    )
    return count


def planned(
    log: PredictionLog, servable: Model, servable_id: ServableId, *, strict: bool
) -> tuple[Invocation, _Check] | None:
    """Return what a record runs, and what raises where its outputs are not of their kind.

    A record of no type at all runs nothing.

    Raises:
        ServingError: The request does not fit the model, or is none that can be replayed.
    """
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        return predict.plan(servable, log.predict_log.request, strict=strict), len
    if kind == "classify_log":
        return _of_examples(CLASSIFICATION, servable, log.classify_log.request, strict=strict)
    if kind == "regress_log":
        return _of_examples(REGRESSION, servable, log.regress_log.request, strict=strict)
    if kind == "multi_inference_log":
        request = log.multi_inference_log.request
        parts, run = multi_inference.plan(
            servable, request.tasks, _serialized(request.input), strict=strict
        )
        rows = len(next(iter(run.inputs.values())))
        return run, lambda outputs: multi_inference.results_of(parts, outputs, rows, servable_id)
    if kind is not None:
        raise Unimplemented(f"a {kind} can't be replayed, only requests of PredictionService")
    return None


def _of_examples(
    interpretation: Interpretation,
    servable: Model,
    request: ClassificationRequest | RegressionRequest,
    *,
    strict: bool,
) -> tuple[Invocation, _Check]:
    name = request.model_spec.signature_name
    run = interpretation.plan(servable, name, _serialized(request.input), strict=strict)
    rows = len(run.inputs[INPUT])
    return run, lambda outputs: interpretation.result(outputs, rows)


def _serialized(sent: Input) -> SerializedInput:
    return SerializedInput.FromString(sent.SerializeToString())


def resized(inputs: Arrays, rows: int) -> Arrays:
    """Return inputs with so many rows: the first ones, and copies of the first where they end."""
    return {alias: _resized(array, rows) for alias, array in inputs.items()}


def _replay(
    run: Invocation, check: _Check, servable: Model, options: WarmupOptions, seen: set[object]
) -> None:
    for _ in range(options.iterations):
        check(servable.run(*run))
    if not options.batch_sizes or run.signature.stateful or not _has_rows(run):
        return  # what a stateful signature has run stays: only the recorded requests may count
    # A second request like the first has nothing to warm at other sizes.
    shapes = tuple((alias, array.shape[1:]) for alias, array in run.inputs.items())
    key = (run.signature.name, run.outputs, shapes)
    if key not in seen:
        seen.add(key)
        recorded = len(next(iter(run.inputs.values())))
        for rows in sorted({*options.batch_sizes} - {recorded}):
            servable.run(run.signature, resized(run.inputs, rows), run.outputs)


def _has_rows(run: Invocation) -> bool:
    """Whether the request is one that batches take: all its inputs have the same rows, and some."""
    if not run.signature.batchable:
        return False
    specs = run.signature.inputs
    return (
        all(specs[alias].admits(array.shape) for alias, array in run.inputs.items())
        and len({len(array) for array in run.inputs.values()}) == 1
        and all(len(array) for array in run.inputs.values())
    )


def _resized(array: NDArray[Any], rows: int) -> NDArray[Any]:
    if rows <= len(array):
        return array[:rows]
    return np.concatenate([array, np.repeat(array[:1], rows - len(array), axis=0)])
