"""PredictionService.Predict: named arrays in, named arrays out. The hot path."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.protos.serving_pb import PredictRequest
from ladle.protos.tensorflow_pb import TensorProto
from ladle.protos.zero_copy import extract_tensor_contents
from ladle.server.call import Stream
from ladle.server.core import malloc
from ladle.server.core.errors import (
    Code,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ServingError,
)
from ladle.server.core.lifecycle.entry import Handle
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.observation import Observation
from ladle.server.core.servable import (
    DEFAULT_SIGNATURE,
    Afterwards,
    Arrays,
    Model,
    Pending,
    Signature,
)
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.observed import ObservedCall
from ladle.server.rpc.predict_response import encode_response
from ladle.server.rpc.request import acquire, acquire_at_once, parse, require_model_spec
from ladle.server.rpc.signatures import (
    CLASSIFY_METHOD,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Run,
    find,
    listed,
    method_name_complaint,
)
from ladle.server.rpc.status import ObservedHandler, as_status

# What a caller sends, with the value "true", to get answers in `tensor_content`.
TENSOR_CONTENT_KEY = "ladle-tensor-content"

_PATH = "/tensorflow.serving.PredictionService/Predict"

Outcome: TypeAlias = "bytes | Exception"
RawOutcome: TypeAlias = "dict[str, NDArray[Any]] | Exception"


class Request(NamedTuple):
    """A PredictRequest that was read."""

    message: PredictRequest
    contents: Mapping[str, memoryview]
    """The large `tensor_content`s that were extracted, by input."""
    nbytes: int
    """How large it was on the wire."""


@dataclass(frozen=True)
class _Tidying:
    """What is done after a large request, so that the next one finds the heap as it has."""

    then: Afterwards

    def __call__(self) -> None:
        if self.then is not None:
            self.then()
        malloc.trim()


class Predict:
    """Answers Predict requests; thread-safe."""

    def __init__(
        self, manager: Manager, *, tensor_content: bool, check_method_names: bool = False
    ) -> None:
        """`tensor_content`: how tensors are answered where the caller doesn't say."""
        self.manager = manager
        self._tensor_content = tensor_content
        self._check_method_names = check_method_names

    def __call__(self, call: ObservedCall) -> ObservedHandler | None:
        """Answer the call with a PredictResponse, once its rows have run; never blocks.

        Checks come in upstream's order: model, signature, inputs, outputs. Returns what has to be
        called in a thread instead, where it has to wait for the model.
        """
        request = read_request(call.request)
        call.seen.model = request.message.model_spec.name
        try:
            handle = acquire_at_once(self.manager, request.message.model_spec)
        except NotFound:
            # It may be on its way, and waiting for that takes a thread.
            return self._wait_and_answer
        self._answer(call, request, handle)
        return None

    def is_typed(self, call: ObservedCall | Stream) -> bool:
        """Whether the caller is answered in typed fields, and not in `tensor_content`."""
        return not (self._tensor_content or call.metadata(TENSOR_CONTENT_KEY) == "true")

    def begin(
        self,
        handle: Handle,
        request: Request,
        deadline: float | None,
        done: Callable[[Outcome], Afterwards],
        typed: bool,
        seen: Observation | None = None,
    ) -> Pending:
        """Have a request run; `done` gets the encoded PredictResponse, or the exception.

        Args:
            handle: on the version that is asked; it is released when the request is done.
            request: what to run.
            deadline: when the caller stops waiting.
            done: called once, in any thread, unless this raises; what it returns is done after all
                others of the batch were told.
            typed: how to encode the answer.
            seen: where what becomes of the request is noted.

        Raises:
            ServingError: The request is wrong, or there is no room for it; `handle` is released.
        """

        def encode(outcome: RawOutcome, servable_id: ServableId, signature: str) -> Afterwards:
            if not isinstance(outcome, Exception):
                if seen is not None:
                    seen.encoding = time.monotonic()
                try:
                    return done(encode_response(outcome, servable_id, signature, typed=typed))
                except Exception as error:
                    outcome = error
            return done(outcome)

        return self.begin_raw(handle, request, deadline, encode, seen)

    def begin_raw(
        self,
        handle: Handle,
        request: Request,
        deadline: float | None,
        done: Callable[[RawOutcome, ServableId, str], Afterwards],
        seen: Observation | None = None,
    ) -> Pending:
        """As `begin`, but `done` gets the outputs as arrays, and what they are outputs of."""
        try:
            if seen is not None:
                seen.served_by(handle.id)
            handle.servable.admit(request.nbytes)
            run = plan(
                handle.servable,
                request.message,
                strict=self._check_method_names,
                contents=request.contents,
            )
            if seen is not None:
                seen.signature = run.signature.name

            is_large = request.nbytes >= malloc.LARGE_BYTES  # without holding on to the request

            def ended(outcome: RawOutcome) -> Afterwards:
                try:
                    then = done(outcome, handle.id, run.signature.name)
                finally:
                    handle.release()
                return _Tidying(then) if is_large else then

            return handle.servable.submit(*run, ended, deadline, seen)
        except BaseException:
            handle.release()
            raise

    def _wait_and_answer(self, call: ObservedCall) -> None:
        request = read_request(call.request)
        spec = request.message.model_spec
        handle = acquire(self.manager, spec, call.deadline, call.on_end)
        self._answer(call, request, handle)

    def _answer(self, call: ObservedCall, request: Request, handle: Handle) -> None:
        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Exception):
                call.fail(as_status(outcome, _PATH, call.seen))
            else:
                call.respond(outcome)

        typed = self.is_typed(call)
        pending = self.begin(handle, request, call.deadline, done, typed, call.seen)
        if request.nbytes >= malloc.LARGE_BYTES:
            call.discard_request()
        call.on_end(pending.leave)


def read_request(data: bytes) -> Request:
    """Return a request, its large tensors as views of `data`.

    Raises:
        InvalidArgument: The bytes are no PredictRequest, or name no model.
    """
    if len(data) >= malloc.LARGE_BYTES:
        malloc.trim()  # of the pieces that the transport got it in
    rest, contents = extract_tensor_contents(data)
    message = parse(PredictRequest, rest)
    require_model_spec(message)
    return Request(message, contents, len(data))


def plan(
    servable: Model,
    request: PredictRequest,
    *,
    strict: bool,
    contents: Mapping[str, memoryview] = MappingProxyType({}),
) -> Run:
    """Return what to run for a request; `strict` holds the signature to its method name.

    `contents` are the large tensor contents that `read_request` extracted from the inputs.

    Raises:
        ServingError: The request does not fit the model.
    """
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = find(servable, name)
    if signature is None:
        raise FailedPrecondition(
            f'Serving signature key "{name}" not found. The model has {sorted(servable.signatures)}'
        )
    if strict:
        _check_method_name(signature)
    inputs = read_inputs(request.inputs, signature, contents)
    return Run(signature, inputs, wanted_outputs(request.output_filter, signature))


def read_inputs(
    given: Mapping[str, TensorProto],
    signature: Signature,
    contents: Mapping[str, memoryview] = MappingProxyType({}),
) -> Arrays:
    """Return the signature's inputs from a request's tensors and the signature's defaults.

    Shapes are not compared with the signature: upstream runs what the model takes.

    Raises:
        InvalidArgument: Names, a dtype or a tensor are not as the signature wants them.
    """
    declared = signature.inputs
    missing = [a for a in declared if a not in given and a not in signature.defaults]
    extra = [alias for alias in given if alias not in declared]
    if missing or extra:
        raise InvalidArgument(
            f"input size does not match signature {signature.name!r}: "
            f"{len(given)}!={len(declared)} len({listed(given)}) != len({listed(declared)}). "
            f"Sent extra: {listed(extra)}. Missing but required: {listed(missing)}."
        )
    arrays: dict[str, NDArray[Any]] = {}
    for alias, spec in declared.items():
        if alias not in given:
            arrays[alias] = signature.defaults[alias]
            continue
        proto = given[alias]
        try:
            array = tensors.to_array(proto, contents.get(alias))
        except tensors.TensorError as error:
            raise InvalidArgument(f"tensor parsing error: {alias}: {error}") from None
        if proto.dtype != spec.data_type:
            raise InvalidArgument(
                f"input {alias!r}: expected {spec}, "
                f"got {dtypes.name(proto.dtype)} {list(array.shape)}"
            )
        if array.nbytes >= malloc.LARGE_BYTES:
            array = malloc.aligned(array)  # a copy, and the message can go
        arrays[alias] = array
    return arrays


def wanted_outputs(output_filter: Sequence[str], signature: Signature) -> tuple[str, ...]:
    """Return the aliases to fetch, in the signature's order: those of the filter, or all.

    The answer is a map: whoever wants the same outputs, in whatever order, can share a batch.

    Raises:
        InvalidArgument: The filter names an output twice, or one that there is not.
    """
    if not output_filter:
        return tuple(signature.outputs)
    wanted: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise InvalidArgument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {listed(signature.outputs)}."
            )
        if alias in wanted:
            raise InvalidArgument(f"duplicate output tensor alias: {alias}")
        wanted.add(alias)
    return tuple(alias for alias in signature.outputs if alias in wanted)


def _check_method_name(signature: Signature) -> None:
    complaint = method_name_complaint(
        signature, "prediction", PREDICT_METHOD, CLASSIFY_METHOD, REGRESS_METHOD
    )
    if complaint:
        raise ServingError(complaint, Code.INTERNAL)  # the code that upstream has for it
