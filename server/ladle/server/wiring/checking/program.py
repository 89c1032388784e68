"""Loads a version as a server loads it, runs requests through it, and reports.

`main` takes an `Order` as a JSON object on stdin and prints a `Report` as the last line on stdout;
whoever starts it needs to know no more than their fields. Requests and answers lie in TFRecord
files: PredictRequests, and a PredictResponse for each of them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ladle.protos.files.integrity import find_missing, model_folder
from ladle.protos.files.records import frame, read_records
from ladle.protos.files.versions import version_of
from ladle.protos.serving_pb import PredictionLog, PredictRequest, PredictResponse
from ladle.protos.tensors import to_proto
from ladle.server.config import Config
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.observation import Loading, Unobserved
from ladle.server.core.servable import Arrays, Model, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.settings.platform_config import PlatformConfig
from ladle.server.warmup.replay import planned
from ladle.server.wiring.checking.example_features import Features, read_example_features
from ladle.server.wiring.checking.made_requests import (
    guesses,
    has_open_sides,
    made_request,
    takes_strings,
)
from ladle.server.wiring.loading import batching_loader, saved_model_loader
from ladle.server.wiring.startup import StartupError

_TIMED_RUNS = 20
_MAX_REASON_LENGTH = 1000
# What a model says of inputs that it does not take.
_REFUSALS = frozenset((Code.INVALID_ARGUMENT, Code.OUT_OF_RANGE))


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be checked, and how it is to be loaded."""

    folder: str
    """The version's."""
    flags: Mapping[str, Any] = field(default_factory=dict)
    """Of `ladle serve`, those that say how a version is loaded: its names and their values."""
    requests: str = ""
    """A file of requests to run; empty for none."""
    answers: str = ""
    """The file that gets their answers; one that failed has an empty answer."""
    timed: Sequence[int] = ()
    """Which of the requests are timed, counted from 0."""
    every_signature: bool = False
    """Whether signatures that no warm-up request has run, run on made inputs."""


@dataclass(kw_only=True)
class Report:
    """How the version did."""

    stage: str = ""
    """What failed: load, warm-up, or signatures; empty if nothing did."""
    reason: str = ""
    """Why, in one line."""
    errors: list[str] = field(default_factory=list)
    """For each request, why it failed; empty where it did not."""
    latencies_ms: list[float | None] = field(default_factory=list)
    """For each request, the median of 20 runs; None unless it was to be timed."""
    warmed_up: list[str] = field(default_factory=list)
    """Signatures that the version's own warm-up requests ran."""
    made: list[str] = field(default_factory=list)
    """Signatures that ran on made inputs."""
    refused: dict[str, str] = field(default_factory=dict)
    """Signatures that took none of the made inputs, which may be no fault of theirs; and why."""
    warnings: list[str] = field(default_factory=list)
    """What the server's log would say of the version."""


def main() -> NoReturn:
    """Do what the order on stdin says, print the report as JSON, and end the process."""
    order = Order(**json.load(sys.stdin))
    print(json.dumps(asdict(check(order))), flush=True)
    # At once, as a server does: what packages do at Python's exit may print, or crash.
    os._exit(0)


def check(order: Order) -> Report:
    """Load the version and run what is ordered; blocks for as long as it takes.

    What is wrong with the version is in the report.
    """
    report = Report()
    log = _Warnings(report.warnings)
    logger = logging.getLogger("ladle.server")
    logger.addHandler(log)
    try:
        _check(order, report)
    except _FailedError as failure:
        report.stage, report.reason = failure.stage, _one_line(failure)
    finally:
        logger.removeHandler(log)
    return report


class _FailedError(Exception):
    """The message says why."""

    def __init__(self, stage: str, reason: object) -> None:
        super().__init__(str(reason))
        self.stage = stage


def _check(order: Order, report: Report) -> None:
    folder = Path(order.folder).absolute()
    servable_id = ServableId(folder.parent.name or "model", version_of(folder.name) or 0)
    noted = _Noted()
    recorded = _Recorded()
    try:
        missing = find_missing(folder)
        if missing is not None:
            raise _FailedError("load", f"{folder}: {missing}")
        config = Config(model_base_path=str(folder.parent), **order.flags)
        platform = PlatformConfig()
        load = saved_model_loader(config, platform)

        def load_recorded(servable_id: ServableId, path: Path) -> Model:
            recorded.model = load(servable_id, path)
            return recorded

        servable = batching_loader(config, platform, load_recorded, noted)(servable_id, folder)
    except (StartupError, ValueError) as error:  # a flag is wrong
        raise _FailedError("load", error) from error
    except (ServingError, OSError) as error:
        raise _FailedError("warm-up" if noted.warmup_failed else "load", error) from error
    try:
        if recorded.not_finite is not None:
            raise _FailedError("signatures", recorded.not_finite)
        report.warmed_up = list(recorded.ran)
        if order.every_signature and not recorded.signatures:
            raise _FailedError("signatures", "it has none that a request can call")
        if order.every_signature:
            parsed = _parsed(folder, config.tags, recorded)
            for name, signature in sorted(recorded.signatures.items()):
                if name not in recorded.ran:
                    _run_made(servable_id, recorded, signature, parsed, report)
        if order.requests:
            _answer(order, recorded.model, servable_id, report)
    finally:
        servable.close()


def _parsed(folder: Path, tags: Sequence[str], model: Model) -> list[Features]:
    if not any(takes_strings(signature) for signature in model.signatures.values()):
        return []
    with suppress(ValueError, OSError):  # the model has loaded: only what is guessed needs this
        return read_example_features(model_folder(folder), tags)
    return []


def _run_made(
    servable_id: ServableId,
    model: Model,
    signature: Signature,
    parsed: Sequence[Features],
    report: Report,
) -> None:
    """Run a signature on made inputs, of one row and of two.

    Raises:
        _FailedError: It fails, or refuses what it declares.
    """
    reason = ""
    for guess in guesses(signature, parsed):
        log = made_request(signature, guess, 1)
        if log is None:
            continue
        refusal = _refusal(servable_id, model, signature, log)
        if refusal is None:
            report.made.append(signature.name)
            _run_two_rows(servable_id, model, signature, made_request(signature, guess, 2), report)
            return
        reason = refusal
    if not reason or takes_strings(signature) or has_open_sides(signature):
        too_much = "its inputs are too large to be made, or of a dtype that no request carries"
        report.refused[signature.name] = _one_line(reason) or too_much
        return
    raise _FailedError(
        "signatures",
        f'signature "{signature.name}" refuses zeros and ones of the shapes that it declares: '
        f"{reason}",
    )


def _run_two_rows(
    servable_id: ServableId,
    model: Model,
    signature: Signature,
    log: PredictionLog | None,
    report: Report,
) -> None:
    if log is None or not signature.batchable:
        return
    refusal = _refusal(servable_id, model, signature, log)
    if refusal is not None:
        report.warnings.append(
            f'signature "{signature.name}" takes one row, and refuses two: {_one_line(refusal)}'
        )


def _refusal(
    servable_id: ServableId, model: Model, signature: Signature, log: PredictionLog
) -> str | None:
    """Return why the model does not take these inputs; None if it ran.

    Raises:
        _FailedError: It fails for another reason than its inputs.
    """
    try:
        plan = planned(log, model, servable_id, strict=False)
        assert plan is not None, "a made request asks for something"
        run, check_outputs = plan
        check_outputs(model.run(*run))
    except ServingError as error:
        # A string may be the name of a file that is not there.
        if error.code in _REFUSALS or (error.code is Code.NOT_FOUND and takes_strings(signature)):
            return error.message
        raise _FailedError("signatures", f'signature "{signature.name}": {error.message}') from (
            error
        )
    return None


def _answer(order: Order, model: Model, servable_id: ServableId, report: Report) -> None:
    timed = set(order.timed)
    with Path(order.answers).open("wb") as file:
        for index, data in enumerate(read_records(Path(order.requests))):
            log = PredictionLog()
            log.predict_log.request.CopyFrom(PredictRequest.FromString(data))
            answer = PredictResponse()
            latency_ms = None
            try:
                plan = planned(log, model, servable_id, strict=False)
                assert plan is not None, "it is a Predict request"
                run, _ = plan
                outputs = model.run(*run)
                latency_ms = _time(model, *run) if index in timed else None
            except ServingError as error:
                name = log.predict_log.request.model_spec.signature_name
                report.errors.append(_one_line(f'signature "{name}": {error.message}'))
            else:
                report.errors.append("")
                for alias, array in outputs.items():
                    answer.outputs[alias].CopyFrom(to_proto(array))
            report.latencies_ms.append(latency_ms)
            file.write(frame(answer.SerializeToString()))


def _time(model: Model, signature: Signature, inputs: Arrays, outputs: tuple[str, ...]) -> float:
    times = []
    for _ in range(_TIMED_RUNS):
        start = time.perf_counter()
        model.run(signature, inputs, outputs)
        times.append(time.perf_counter() - start)
    return round(median(times) * 1000, 4)


class _Recorded:
    """A Model that notes which signatures have run, and the first number that is not finite."""

    model: Model
    default_signature = ""

    def __init__(self) -> None:
        self.ran: dict[str, None] = {}
        self.not_finite: str | None = None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self.model.signatures

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        return self.model.signature_defs

    @property
    def card_json(self) -> str | None:
        return self.model.card_json

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        results = self.model.run(signature, inputs, outputs, deadline)
        self.ran.update(dict.fromkeys(signature.names))
        for alias, array in results.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                self.not_finite = self.not_finite or (
                    f'signature "{signature.name}": output "{alias}": not finite'
                )
        return results

    def close(self) -> None:
        self.model.close()


class _Noted(Unobserved):
    """Hears whether it was the warm-up that failed."""

    warmup_failed = False

    def warmup_ended(self, warmup: Loading, records: int) -> None:
        self.warmup_failed = warmup.error is not None


class _Warnings(logging.Handler):
    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(_one_line(record.getMessage()))


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split())[:_MAX_REASON_LENGTH]
