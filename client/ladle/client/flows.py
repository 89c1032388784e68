"""What is asked of a server for each of the client's methods, and in which order; no I/O.

A flow is a generator: it yields a request, is sent the answer's bytes or has the call's LadleError
thrown into it, and returns the result; or it yields a pause, and is sent nothing of use. Who drives
it decides how to wait, so that a client that blocks and one that awaits share all of this.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

from ladle.client import examples, inputs, requests, responses
from ladle.client.cache import MetadataCache
from ladle.client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidInput,
    NotFound,
    Overloaded,
    Unavailable,
    Unimplemented,
)
from ladle.client.examples import Classification, Examples, Features, Regression
from ladle.client.models import ModelMetadata, ServedModel, VersionState, VersionStatus
from ladle.client.prediction import Prediction
from ladle.client.requests import Request, Servable
from ladle.client.steps import Normalize
from ladle.protos.model_card import CARD_METADATA_FIELD

T = TypeVar("T")


class Pause(NamedTuple):
    """Time to let pass before the flow goes on."""

    seconds: float


Flow: TypeAlias = Generator[Request | Pause, bytes, T]

# How often a prediction is asked for in all, where another version answers than the one that the
# inputs were prepared for. More than twice takes servers that disagree, amid a roll-out.
MAX_ROUNDS = 5

# How often a server that isn't ready is asked again.
READY_POLL_S = 0.2

_BOTH_FIELDS = (responses.SIGNATURES_METADATA_FIELD, CARD_METADATA_FIELD)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the caller of `predict` wants."""

    asked: Servable
    given: inputs.Given
    signature: str = ""
    """Empty for the default one."""
    outputs: tuple[str, ...] = ()
    """Empty for all."""
    normalize: Normalize = "auto"
    in_chunks: bool = False
    """Whether the answer is to come in as many messages as it takes."""
    max_bytes: int = requests.MAX_MESSAGE_BYTES

    def plan(self, metadata: ModelMetadata) -> inputs.Plan:
        """Return how the inputs are prepared for that version, having checked all against it."""
        plan = inputs.plan(metadata, self.signature, self.given, self.normalize)
        inputs.check_outputs(metadata, plan.signature, self.outputs)
        return plan

    def request(self, plan: inputs.Plan) -> Request:
        """Return the call with the inputs prepared so."""
        request = requests.predict(
            self.asked,
            inputs.carry_out(plan, self.given),
            signature=plan.signature,
            outputs=self.outputs,
            max_bytes=self.max_bytes,
        )
        return request._replace(method=requests.PREDICT_IN_CHUNKS) if self.in_chunks else request


def metadata(asked: Servable) -> Flow[ModelMetadata]:
    """Ask how a model is called, and for its card where the server knows of cards."""
    try:
        answer = yield requests.metadata(asked, _BOTH_FIELDS)
    except InvalidInput:
        # TensorFlow Serving refuses a field it doesn't know. Had it refused something else, such
        # as the label, it will again.
        answer = yield requests.metadata(asked, (responses.SIGNATURES_METADATA_FIELD,))
    return responses.metadata(answer, asked)


def status(asked: Servable) -> Flow[tuple[VersionStatus, ...]]:
    """Ask for the state of a model's versions."""
    answer = yield requests.status(asked)
    return responses.status(answer, asked)


@dataclass(frozen=True, kw_only=True)
class OnExamples:
    """What the callers of `classify`, `regress` and `multi_inference` want."""

    asked: Servable
    examples: Examples
    context: Features | None = None
    max_bytes: int = requests.MAX_MESSAGE_BYTES


def classify(wanted: OnExamples, signature: str | None) -> Flow[Classification]:
    """Ask for the classes of examples."""
    rows = examples.as_examples(wanted.examples)
    sent = examples.to_input(rows, wanted.context)
    answer = yield requests.classify(wanted.asked, signature or "", sent, wanted.max_bytes)
    named = signature or inputs.DEFAULT_SIGNATURE
    return responses.classify(answer, wanted.asked, named, len(rows))


def regress(wanted: OnExamples, signature: str | None) -> Flow[Regression]:
    """Ask for the number that a model gives each example."""
    rows = examples.as_examples(wanted.examples)
    sent = examples.to_input(rows, wanted.context)
    answer = yield requests.regress(wanted.asked, signature or "", sent, wanted.max_bytes)
    named = signature or inputs.DEFAULT_SIGNATURE
    return responses.regress(answer, wanted.asked, named, len(rows))


def multi_inference(
    wanted: OnExamples, tasks: Mapping[str, requests.Task]
) -> Flow[dict[str, Classification | Regression]]:
    """Ask several signatures about the same examples, in one call."""
    rows = examples.as_examples(wanted.examples)
    sent = examples.to_input(rows, wanted.context)
    answer = yield requests.multi_inference(wanted.asked, tasks, sent, wanted.max_bytes)
    return responses.multi_inference(answer, wanted.asked, tuple(tasks), len(rows))


def models(name: str) -> Flow[tuple[ServedModel, ...]]:
    """Ask which models the server is to serve; only ladle's tells."""
    try:
        answer = yield requests.models(name)
    except Unimplemented as error:
        raise Unimplemented(
            "this server doesn't list its models, as TensorFlow Serving doesn't; "
            f"status(model) tells of one ({error})",
            details=error.details,
        ) from error
    return responses.models(answer)


def reload(configs: requests.ModelConfigs) -> Flow[None]:
    """Have the server serve other models."""
    answer = yield requests.reload(configs)
    responses.reload(answer)


def health(service: str) -> Flow[bool]:
    """Ask whether a service takes calls."""
    answer = yield requests.health(service)
    return responses.health(answer)


def wait_until_ready(asked: Servable | None) -> Flow[None]:
    """Ask again and again until the server takes calls, and the model's version where one is meant.

    A server without health checks, such as TensorFlow Serving's, takes calls once it answers. One
    that is about to stop cancels calls. This is to be driven `once`: it makes retries itself.
    """
    reason = "it has not answered yet"
    try:
        while True:
            try:
                not_ready = yield from _not_ready(asked)
            except (Unavailable, Overloaded, NotFound, Cancelled) as error:
                not_ready = str(error)
            if not_ready is None:
                return
            reason = not_ready
            yield Pause(READY_POLL_S)
    except DeadlineExceeded as error:
        raise DeadlineExceeded(f"not ready within the timeout: {reason}") from error


def _not_ready(asked: Servable | None) -> Flow[str | None]:
    """Return why not, or None."""
    if asked is not None:
        versions = yield from status(Servable(asked.model, asked.version))
        if not any(version.state is VersionState.AVAILABLE for version in versions):
            states = ", ".join(f"version {v.version} is {v.state.name}" for v in versions)
            failures = "".join(f"; {v.error_message}" for v in versions if v.error_message)
            return f"{asked}: {states or 'it has no version'}{failures}"
        return None
    try:
        return None if (yield from health("")) else "the server says that it takes no calls"
    except (Unimplemented, NotFound):
        return None


def predict(
    wanted: Wanted,
    known: MetadataCache,
    read: Callable[[bytes, Servable], responses.Predicted] = responses.predict,
) -> Flow[Prediction]:
    """Prepare the inputs as the version that answers wants them, and ask for a prediction.

    `read` reads an answer; of one in chunks that is the first, and its rows are what is returned.

    Which version answers is only known when it has. If it is not the one whose metadata was used,
    and would have had the inputs prepared in another way, they are prepared and sent again. And
    nothing is refused on account of what was remembered: the metadata is fetched anew before.
    """
    asked = wanted.asked
    metadata = known.find(asked)
    is_fresh = metadata is None
    if metadata is None:
        metadata = yield from _learn(asked, known)
    sent: inputs.Plan | None = None
    for _ in range(MAX_ROUNDS):
        try:
            plan = wanted.plan(metadata)
            if plan != sent:
                answer = yield wanted.request(plan)
                predicted = read(answer, asked)
                sent = plan
        except (InvalidInput, FailedPrecondition):
            if is_fresh:
                raise
            remembered, metadata = metadata, (yield from _learn(asked, known))
            if metadata == remembered:
                raise
            is_fresh, sent = True, None
            continue
        if metadata.version is None or predicted.version in (metadata.version, None):
            return _prediction(wanted, plan, predicted, metadata)
        answered = Servable(asked.model, predicted.version)
        remembered_version = known.find(answered)
        is_fresh = remembered_version is None
        try:
            metadata = remembered_version or (yield from _learn(answered, known))
        except NotFound:  # gone again already: what it wanted can't be known any more
            metadata, sent = (yield from _learn(asked, known)), None
        known.learn(asked, metadata)
    raise Unavailable(
        f"{asked}: its version kept changing: {MAX_ROUNDS} times another one answered than the one "
        "that the inputs were prepared for"
    )


def learn(asked: Servable, known: MetadataCache) -> Flow[ModelMetadata]:
    """Return the metadata of a servable, asking for it where it is not known."""
    return known.find(asked) or (yield from _learn(asked, known))


def _learn(asked: Servable, known: MetadataCache) -> Flow[ModelMetadata]:
    try:
        learned = yield from metadata(asked)
    except Unimplemented:  # a server that can't tell: nothing will be checked
        learned = ModelMetadata(model=asked.model, version=None, signatures={})
    known.learn(asked, learned)
    return learned


def _prediction(
    wanted: Wanted, plan: inputs.Plan, predicted: responses.Predicted, metadata: ModelMetadata
) -> Prediction:
    return Prediction(
        outputs=predicted.outputs,
        model=wanted.asked.model,
        version=predicted.version,
        signature=predicted.signature or plan.signature or inputs.DEFAULT_SIGNATURE,
        labels=metadata.card.labels if metadata.card else (),
    )
