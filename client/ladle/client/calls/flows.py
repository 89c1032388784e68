"""The requests that predictions and other uses of a model send, in order; no I/O.

A flow is a generator. It yields a request and receives the answer's bytes, or the call's LadleError
is thrown into it; or it yields a Pause. It returns the method's result. The retry loop drives it.
The blocking client and the asyncio client share all flows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ladle.client.calls.effects import Flow
from ladle.client.calls.metadata_cache import Callers, MetadataCache
from ladle.client.calls.protocol import Protocol
from ladle.client.calls.server_flows import naming_what_is_served
from ladle.client.calls.tensorflow_serving import TENSORFLOW_SERVING
from ladle.client.errors import (
    FailedPrecondition,
    InvalidInput,
    LadleError,
    NotFound,
    Unavailable,
    Unimplemented,
)
from ladle.client.inputs import examples, planning
from ladle.client.inputs.arrays import Arrays
from ladle.client.inputs.conversion import Normalize
from ladle.client.inputs.examples import Examples, Features
from ladle.client.messages import requests, responses
from ladle.client.messages.requests import EncodedRequest, Servable
from ladle.client.models import (
    DEFAULT_SIGNATURE,
    ModelMetadata,
)
from ladle.client.prediction import Classification, Prediction, Regression

T = TypeVar("T")


# How many Predict calls one prediction makes at most, where a version answers for which the inputs
# were not prepared. A third call takes servers that serve different versions, as in a roll-out.
MAX_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class PredictCall:
    """The arguments of one `predict`."""

    target: Servable
    inputs: Arrays
    protocol: Protocol = TENSORFLOW_SERVING
    signature: str = ""
    """Empty for the default one."""
    outputs: tuple[str, ...] = ()
    """Empty for all."""
    normalize: Normalize = "auto"
    in_chunks: bool = False
    """True for PredictInChunks, whose answer comes in several messages."""
    max_bytes: int = requests.MAX_MESSAGE_BYTES
    metadata: Callers = ()
    """Sent with each request."""

    def plan(self, metadata: ModelMetadata) -> planning.Plan:
        """Check the call against a version's metadata; return how its inputs are prepared."""
        self.protocol.check_signature(self.signature)
        try:
            plan = planning.plan(metadata, self.signature, self.inputs, self.normalize)
        except InvalidInput as error:
            if metadata.signatures or not self.protocol.always_has_metadata:
                raise
            raise InvalidInput(f"{error}; {self.protocol.other}") from None
        planning.check_outputs(metadata, plan.signature, self.outputs)
        return plan

    def request(self, plan: planning.Plan) -> EncodedRequest:
        """Return the request, with the inputs prepared as `plan` says."""
        request = self.protocol.predict(
            self.target,
            planning.execute(plan, self.inputs),
            signature=plan.signature,
            outputs=self.outputs,
            max_bytes=self.max_bytes,
        )
        return request._replace(method=requests.PREDICT_IN_CHUNKS) if self.in_chunks else request


def carrying(flow: Flow[T], metadata: Callers) -> Flow[T]:
    """Send metadata with each request of a flow, the requests for a model's metadata included."""
    return _carrying(flow, metadata) if metadata else flow


def _carrying(flow: Flow[T], metadata: Callers) -> Flow[T]:
    try:
        effect = next(flow)
        while True:
            if isinstance(effect, EncodedRequest):
                effect = effect._replace(metadata=metadata)
            try:
                answer = yield effect
            except LadleError as error:
                effect = flow.throw(error)
            else:
                effect = flow.send(answer)
    except StopIteration as finished:
        result: T = finished.value
        return result


def metadata(target: Servable, protocol: Protocol = TENSORFLOW_SERVING) -> Flow[ModelMetadata]:
    """Fetch the signatures of a model, and its card where the server has cards."""
    return naming_what_is_served(protocol.metadata(target), target, protocol)


@dataclass(frozen=True, kw_only=True)
class ExamplesCall:
    """The arguments that `classify`, `regress` and `multi_inference` share."""

    target: Servable
    examples: Examples
    context: Features | None = None
    max_bytes: int = requests.MAX_MESSAGE_BYTES
    metadata: Callers = ()
    """Sent with each request."""


def classify(call: ExamplesCall, signature: str | None) -> Flow[Classification]:
    """Classify examples."""
    flow = carrying(_classify(call, signature), call.metadata)
    return naming_what_is_served(flow, call.target, TENSORFLOW_SERVING)


def _classify(call: ExamplesCall, signature: str | None) -> Flow[Classification]:
    rows = examples.as_examples(call.examples)
    sent = examples.to_input(rows, call.context)
    answer = yield requests.classify(call.target, signature or "", sent, call.max_bytes)
    named = signature or DEFAULT_SIGNATURE
    return responses.classify(answer, call.target, named, len(rows))


def regress(call: ExamplesCall, signature: str | None) -> Flow[Regression]:
    """Get a number for each example."""
    flow = carrying(_regress(call, signature), call.metadata)
    return naming_what_is_served(flow, call.target, TENSORFLOW_SERVING)


def _regress(call: ExamplesCall, signature: str | None) -> Flow[Regression]:
    rows = examples.as_examples(call.examples)
    sent = examples.to_input(rows, call.context)
    answer = yield requests.regress(call.target, signature or "", sent, call.max_bytes)
    named = signature or DEFAULT_SIGNATURE
    return responses.regress(answer, call.target, named, len(rows))


def multi_inference(
    call: ExamplesCall, tasks: Mapping[str, requests.Task]
) -> Flow[dict[str, Classification | Regression]]:
    """Run several signatures over the same examples, in one call."""
    flow = carrying(_multi_inference(call, tasks), call.metadata)
    return naming_what_is_served(flow, call.target, TENSORFLOW_SERVING)


def _multi_inference(
    call: ExamplesCall, tasks: Mapping[str, requests.Task]
) -> Flow[dict[str, Classification | Regression]]:
    rows = examples.as_examples(call.examples)
    sent = examples.to_input(rows, call.context)
    answer = yield requests.multi_inference(call.target, tasks, sent, call.max_bytes)
    return responses.multi_inference(answer, call.target, tuple(tasks), len(rows))


def predict(
    call: PredictCall,
    known: MetadataCache,
    read: Callable[[bytes, Servable], responses.Predicted] | None = None,
) -> Flow[Prediction]:
    """Prepare the inputs for the version that answers, and get a prediction.

    `read` reads the first message of an answer in chunks; by default the protocol reads the answer.

    Only the answer says which version answered. If that version needs its inputs prepared in
    another way than they were, the flow prepares them again and sends them again. The flow never
    refuses inputs because of cached metadata: it fetches the metadata anew first.
    """
    flow = carrying(_predict(call, known, read or call.protocol.read_prediction), call.metadata)
    return naming_what_is_served(flow, call.target, call.protocol)


def _predict(
    call: PredictCall,
    known: MetadataCache,
    read: Callable[[bytes, Servable], responses.Predicted],
) -> Flow[Prediction]:
    target = call.target
    metadata = known.find(target, call.metadata)
    is_fresh = metadata is None
    if metadata is None:
        metadata = yield from _learn(target, known, call.protocol, call.metadata)
    sent: planning.Plan | None = None
    for _ in range(MAX_ROUNDS):
        try:
            plan = call.plan(metadata)
            if plan != sent:
                answer = yield from _asked(call, plan)
                predicted = read(answer, target)
                sent = plan
        except (InvalidInput, FailedPrecondition):
            if is_fresh:
                raise
            remembered, metadata = (
                metadata,
                (yield from _learn(target, known, call.protocol, call.metadata)),
            )
            if metadata == remembered:
                raise
            is_fresh, sent = True, None
            continue
        if metadata.version is None or predicted.version in (metadata.version, None):
            return _prediction(call, plan, predicted, metadata)
        answered = Servable(target.model, predicted.version)
        remembered_version = known.find(answered)
        is_fresh = remembered_version is None
        try:
            metadata = remembered_version or (yield from _learn(answered, known, call.protocol))
        except NotFound:  # unloaded already, so its metadata can't be had
            metadata, sent = (yield from _learn(target, known, call.protocol, call.metadata)), None
        known.learn(target, metadata, call.metadata)
    raise Unavailable(
        f"{target}: its version kept changing: {MAX_ROUNDS} times another version answered than "
        "the one that the inputs were prepared for"
    )


def _asked(call: PredictCall, plan: planning.Plan) -> Flow[bytes]:
    try:
        answer = yield call.request(plan)
    except Unimplemented as error:
        if call.in_chunks:
            raise  # another method does it
        advice = f"{error}; {call.protocol.other}"
        raise Unimplemented(advice, details=error.details) from error
    return answer


def learn(
    target: Servable, known: MetadataCache, protocol: Protocol = TENSORFLOW_SERVING
) -> Flow[ModelMetadata]:
    """Return the metadata of a servable, from the cache or from the server."""
    learned = known.find(target)
    if learned is None:
        flow = _learn(target, known, protocol)
        learned = yield from naming_what_is_served(flow, target, protocol)
    return learned


def _learn(
    target: Servable, known: MetadataCache, protocol: Protocol, callers: Callers = ()
) -> Flow[ModelMetadata]:
    try:
        learned = yield from protocol.metadata(target)
    except Unimplemented:  # without metadata nothing can be checked
        learned = ModelMetadata(model=target.model, version=None, signatures={})
    known.learn(target, learned, callers)
    return learned


def _prediction(
    call: PredictCall, plan: planning.Plan, predicted: responses.Predicted, metadata: ModelMetadata
) -> Prediction:
    return Prediction(
        outputs=predicted.outputs,
        model=call.target.model,
        version=predicted.version,
        signature=predicted.signature or plan.signature or DEFAULT_SIGNATURE,
        labels=metadata.card.labels if metadata.card else (),
    )
