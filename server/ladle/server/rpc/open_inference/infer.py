"""ModelInfer: a parser and an encoder around the queue that Predict's requests wait in too."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from ladle.protos.inference_pb import InferParameter, ModelInferRequest
from ladle.protos.serving_pb import ModelSpec
from ladle.protos.zero_copy import LEAST_BYTES, extract_repeated_bytes
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.errors import InvalidArgument, NotFound, ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.machine import malloc
from ladle.server.core.observation import Observation
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.middleware import BlockingPart, ObservedCall
from ladle.server.rpc.open_inference import names
from ladle.server.rpc.open_inference.answers import AnswerForm, id_field, wanted_outputs
from ladle.server.rpc.open_inference.classification import classify_counts
from ladle.server.rpc.open_inference.inputs import read_inputs
from ladle.server.rpc.open_inference.parameters import (
    check_parameters,
    signature_name,
    timeout_s,
    wants_typed,
)
from ladle.server.rpc.queued import Outputs, QueuedMethod
from ladle.server.rpc.request import Invocation, earlier, parse

PATH = "/inference.GRPCInferenceService/ModelInfer"

_MOST_NAMES = 1024
_NONE: Mapping[str, InferParameter] = MappingProxyType({})
_RAW_INPUTS = 7


class ParsedInfer(NamedTuple):
    """A ModelInferRequest that was read."""

    message: ModelInferRequest
    raw: Sequence[bytes | memoryview]
    """The raw contents; large ones are views of the request."""
    name: names.Name
    spec: ModelSpec
    parameters: Mapping[str, InferParameter]
    """The request's own."""
    outputs: Sequence[ModelInferRequest.InferRequestedOutputTensor]
    """Those that it names."""
    deadline: float | None = None
    """The monotonic time at which the request's own timeout ends; None without one."""
    seen: Observation | None = None
    """Where outputs are noted that the answer does not hold."""


class ModelInfer:
    """ModelInfer as an InferMethod. Thread-safe."""

    path = PATH

    def __init__(self, manager: Manager, now: Callable[[], float] = time.monotonic) -> None:
        """Take which models there are, and the time.

        Args:
            manager: knows which models are configured, and their labels.
            now: returns the monotonic time.
        """
        self._manager = manager
        self._now = now
        self._newest: dict[str, tuple[names.Name, ModelSpec]] = {}  # by names of models

    def parse(self, data: bytes, metadata: Callable[[str], str | None]) -> ParsedInfer:
        """Return a request, its large raw contents as views of `data`.

        Raises:
            InvalidArgument: The bytes are no ModelInferRequest, or a name or parameter is wrong.
            NotFound: No model is configured under the name.
        """
        return self.understand(*read(data))

    def understand(self, message: ModelInferRequest, raw: Sequence[memoryview]) -> ParsedInfer:
        """Return a request whose names and parameters are right; its arguments are what `read` has.

        Raises:
            InvalidArgument: A name or parameter is wrong.
            NotFound: No model is configured under the name.
        """
        model, version = message.model_name, message.model_version
        known = None if version else self._newest.get(model)
        # Should a known model be gone by now, there is no version of it to be had.
        name, spec = known or self._found(model, version)
        contents = raw or message.raw_input_contents
        parameters, outputs = message.parameters, message.outputs
        if not parameters:
            return ParsedInfer(message, contents, name, spec, _NONE, outputs)
        check_parameters(parameters)
        timeout = timeout_s(parameters)
        deadline = None if timeout is None else self._now() + timeout
        return ParsedInfer(message, contents, name, spec, parameters, outputs, deadline)

    def _found(self, model: str, version: str) -> tuple[names.Name, ModelSpec]:
        found = names.parse_known(model, version, self._manager)
        if not version and ":" not in model:
            if len(self._newest) >= _MOST_NAMES:
                self._newest.clear()
            self._newest[model] = found
        return found

    def model_spec(self, request: ParsedInfer) -> ModelSpec:
        """Return which model and version the request names."""
        return request.spec

    def missing(self, request: ParsedInfer) -> ServingError:
        """Return why the request's version can't be had."""
        return names.missing(request.name, request.spec, self._manager)

    def plan(
        self, model: Model, request: ParsedInfer
    ) -> tuple[Invocation, Callable[[Outputs, ServableId], bytes]]:
        """Return what to run, and what encodes the ModelInferResponse.

        Raises:
            InvalidArgument: The request does not fit the signature.
            Unimplemented: It needs what the server does not have, such as shared memory.
        """
        invocation, form = self.outline(model, request)
        return invocation, partial(form.encode, id_field(request.message.id), request.seen)

    def outline(self, model: Model, request: ParsedInfer) -> tuple[Invocation, AnswerForm]:
        """Return what to run, and what answers have of the request, but for its id.

        Checks come in this order: signature, outputs, inputs.

        Raises:
            InvalidArgument: The request does not fit the signature.
            Unimplemented: It needs what the server does not have, such as shared memory.
        """
        message, given = request.message, request.name.given
        parameters = request.parameters
        asked = signature_name(parameters) if parameters else ""
        signature = names.find_signature(model, asked or request.name.signature)
        named = request.outputs
        wanted = signature.carried_outputs
        counts: Mapping[str, int] = {}
        if named or not wanted:
            wanted = wanted_outputs(named, signature, given)
            counts = classify_counts(named, signature)
        inputs = read_inputs(message, request.raw, signature, given)
        if signature.batchable and (rows := len(next(iter(inputs.values())))) > 1:
            _check_rows(model, rows, given)
        typed = bool(parameters) and wants_typed(parameters)
        form = AnswerForm(given, signature, wanted, counts, model.card_json, typed)
        if named:
            wanted = tuple(alias for alias in signature.outputs if alias in set(wanted))
        return Invocation(signature, inputs, wanted), form


class ModelInferMethod:
    """Answers ModelInfer calls. Thread-safe."""

    def __init__(
        self, method: ModelInfer, manager: Manager, shadows: ShadowRuns | None = None
    ) -> None:
        self._method = method
        self._queued = QueuedMethod(manager, method, shadows)

    def __call__(self, call: ObservedCall) -> BlockingPart | None:
        """Answer the call once its rows have run; never blocks.

        Returns what has to be called in a thread instead, where it has to wait for the model.
        """
        request = self._method.parse(call.request, call.metadata)
        deadline = call.deadline
        if request_id := request.message.id:
            call.observation.known_as(request_id)
        if request.outputs:
            request = request._replace(seen=call.observation)
        if request.deadline is not None:
            deadline = earlier(deadline, request.deadline)
        try:
            part = self._queued.begin(call, request, deadline)
        except NotFound:
            raise self._method.missing(request) from None
        if part is None:
            return None
        return partial(_wait, part, partial(self._method.missing, request._replace(raw=())))


def read(data: bytes) -> tuple[ModelInferRequest, Sequence[memoryview]]:
    """Return a message without its large raw contents, and those contents as views.

    Raises:
        InvalidArgument: The bytes are no ModelInferRequest.
    """
    if len(data) < LEAST_BYTES:
        return parse(ModelInferRequest, data), ()
    if len(data) >= malloc.LARGE_BYTES:
        malloc.trim()  # of the pieces that the transport got it in
    rest, raw = extract_repeated_bytes(data, _RAW_INPUTS)
    return parse(ModelInferRequest, rest), raw


def _check_rows(model: Model, rows: int, given: str) -> None:
    """Refuse what the batcher would, in the protocol's words."""
    options = model.options if isinstance(model, BatchingServable) else None
    if options is not None and options.refuse_larger and rows > options.max_batch_size:
        raise InvalidArgument(
            f"inference request batch-size must be <= {options.max_batch_size} for '{given}'"
        )


def _wait(part: BlockingPart, missing: Callable[[], ServingError], call: ObservedCall) -> None:
    try:
        part(call)
    except NotFound:
        raise missing() from None
