"""What requests of several services share: reading them, and finding what they name.

They name a model, a version of it, and a signature of that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.access import PRIORITY_KEY, read_priority
from ladle.server.core.batching.plan import Priority
from ladle.server.core.errors import FailedPrecondition, InvalidArgument, NotFound
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.core.rollout.router import Metadata
from ladle.server.core.servable import Arrays, Model, Signature

M = TypeVar("M", bound=Message)

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


def priority_of(metadata: Metadata) -> Priority:
    """Return how urgent a caller calls a request.

    Raises:
        InvalidArgument: The caller says something else.
    """
    text = metadata(PRIORITY_KEY)
    return Priority.NORMAL if text is None else read_priority(text)


def parse(message_class: type[M], data: bytes, name: str | None = None) -> M:
    """Return the request message; `name` is what callers know it by, if not by its own name.

    Raises:
        InvalidArgument: The bytes are no such message.
    """
    try:
        return message_class.FromString(data)
    except DecodeError:
        name = name or message_class.DESCRIPTOR.full_name
        raise InvalidArgument(f"expected a {name}, got {len(data)} bytes that are none") from None


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two deadlines; None where there is none."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def require_model_spec(request: Message) -> None:
    """Refuse a request without `model_spec`."""
    if not request.HasField("model_spec"):
        raise InvalidArgument("Missing ModelSpec")


class Waiter(Protocol):
    """Who can wait for a model: a call or a stream."""

    @property
    def deadline(self) -> float | None:
        """The monotonic time at which the caller stops waiting; None if it never does."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have `callback` called once the caller has gone."""


class ExpectedVersion(NamedTuple):
    """A version that cannot be had now; its model may be loading for the first time."""

    manager: Manager
    spec: ModelSpec
    metadata: Metadata | None = None

    def wait(
        self,
        deadline: float | None,
        on_end: Callable[[Callable[[], None]], None] | None = None,
    ) -> Handle:
        """Block until the model's first version has loaded, and return a handle on the version.

        Blocks not past the deadline, and not once the caller has gone.

        Args:
            deadline: the monotonic time at which the caller stops waiting; None if it never does.
            on_end: takes a callback to be called when the caller goes.

        Raises:
            Cancelled: The caller went away.
            NotFound: No such version is available.
            Unavailable: The first version takes too long to load.
        """
        try:
            return _acquire(self.manager, self.spec, self.metadata)
        except NotFound:
            if not self.manager.wait_for_first(self.spec.name, deadline, on_end):
                raise
        spec = self.spec
        version = spec.version.value if spec.HasField("version") else None
        label = spec.version_label
        rollout = self.manager.router.rollouts.get(spec.name)
        if rollout is not None and spec.WhichOneof("version_choice") is None:
            label = rollout.stable_label  # what came first may be a version that gets nothing yet
        if version is not None or label:
            self.manager.wait_for_version(spec.name, version, label, deadline, on_end)
        return _acquire(self.manager, spec, self.metadata)


def find_version(manager: Manager, spec: ModelSpec) -> Handle | ExpectedVersion:
    """Return a handle on the version that a request names: by number, by label or as the latest.

    Never blocks. A model may be loading for the first time, as when the port has just been opened.
    What is returned then can wait for it, in a thread.

    Raises:
        InvalidArgument: No name, or a label that no version has.
    """
    try:
        return _acquire(manager, spec)
    except NotFound:
        return ExpectedVersion(manager, spec)


def with_version(
    manager: Manager,
    spec: ModelSpec,
    use: Callable[[Handle], None],
    metadata: Metadata | None = None,
) -> Callable[[Waiter], None] | None:
    """Call `use` with a handle on the version that a request names, if it can be had now.

    Otherwise return what has to be called in a thread: it waits for the version and calls `use`.
    `metadata` returns what the caller sent: a roll-out may choose the version by it.

    Raises:
        InvalidArgument: No name, or a label that no version has.
        ServingError: `use` has raised it.
    """
    try:
        handle = _acquire(manager, spec, metadata)
    except NotFound:
        expected = ExpectedVersion(manager, spec, metadata)
        return lambda waiter: use(expected.wait(waiter.deadline, waiter.on_end))
    use(handle)
    return None


def _acquire(manager: Manager, spec: ModelSpec, metadata: Metadata | None = None) -> Handle:
    if not spec.name:
        raise InvalidArgument("ModelSpec has no name specified.")
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    if choice == "version_label":
        version = manager.labelled(spec.name, spec.version_label)
    elif version is None and manager.router.rollouts:
        version = manager.router.choose(spec.name, metadata)
    return manager.acquire(spec.name, version)


class Invocation(NamedTuple):
    """What a request comes down to: a signature, arrays for it, and the outputs wanted."""

    signature: Signature
    inputs: Arrays
    outputs: tuple[str, ...]


def find_signature(servable: Model, name: str) -> Signature | None:
    """Return the signature of this name; None where the model declares none.

    Raises:
        FailedPrecondition: The model declares it, but no request can call it.
    """
    signature = servable.signatures.get(name)
    if signature is None and name in servable.signature_defs:
        raise FailedPrecondition(
            f'Serving signature key "{name}" can\'t be called: it declares sparse or composite '
            "tensors, or none at all, and requests carry dense ones"
        )
    return signature


def listed(names: Collection[str]) -> str:
    """Return names as upstream's messages show a set: `{a, b}`."""
    return "{" + ", ".join(sorted(names)) + "}"


def method_name_complaint(signature: Signature, kind: str, *expected: str) -> str | None:
    """Return what `--enable_signature_method_name_check` has against a signature, if anything."""
    if signature.method_name in expected:
        return None
    one_of = expected[0] if len(expected) == 1 else f"one of {listed(expected)}"
    return f"Expected {kind} signature method_name to be {one_of}. Was: {signature.method_name}"
