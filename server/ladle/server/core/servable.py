"""What is served: a version of a model, its signatures, and what running one means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from ladle.protos import tensors
from ladle.protos.datatypes import BY_NUMBER
from ladle.server.core.observation import Observation

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by their alias in a signature."""

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as a signature declares it."""

    data_type: int
    """Its DataType number, never a reference type."""
    shape: tuple[int, ...] | None
    """-1 stands for any size; None where even the rank is open."""
    feed_name: str = ""
    """The tensor's name in the graph, for messages."""
    unanswerable: str = ""
    """What an output is that no answer can carry, as `a sparse tensor`; empty for all others."""

    def __str__(self) -> str:
        return tensors.describe(self.data_type, self.shape)

    @property
    def has_open_rows(self) -> bool:
        """Whether the first dimension is declared, and open: a place for rows of many callers."""
        return bool(self.shape) and self.shape is not None and self.shape[0] == -1

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape is what was declared."""
        if self.shape is None or shape == self.shape:
            return True
        if shape and self.shape[:1] == (-1,) and shape[1:] == self.shape[1:]:
            return True  # the usual case, without a loop
        return len(shape) == len(self.shape) and all(
            declared in (-1, size) for declared, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """A function of the model that requests can name."""

    name: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = ""
    defaults: Arrays = field(default_factory=dict)
    """Values for inputs that a request may leave out."""
    stateful: str = ""
    """Why each request must run exactly once: what of a run outlives it, or is random. Empty if
    running a request again has the same answer, and changes nothing."""
    parts: tuple[str, ...] = ()
    """The names of several signatures that run as this one; empty for one that the model has."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The model's own signatures that run in this one."""
        return self.parts or (self.name,)

    @cached_property
    def batchable(self) -> bool:
        """Whether rows of different callers can share a run: every tensor has an open first dim."""
        specs = [*self.inputs.values(), *self.outputs.values()]
        return bool(self.inputs) and all(spec.has_open_rows for spec in specs)

    @cached_property
    def carried_outputs(self) -> tuple[str, ...]:
        """The outputs that the Open Inference Protocol has a datatype for, in their order."""
        return tuple(
            alias
            for alias, spec in self.outputs.items()
            if spec.data_type in BY_NUMBER and not spec.unanswerable
        )

    @cached_property
    def uncarried_input(self) -> str:
        """The first input that has neither a datatype in that protocol nor a default; or empty."""
        return next(
            (
                alias
                for alias, spec in self.inputs.items()
                if spec.data_type not in BY_NUMBER and alias not in self.defaults
            ),
            "",
        )

    @cached_property
    def has_fixed_rows(self) -> bool:
        """Whether all rows of an input have one shape: only their number is open."""
        return self.batchable and all(-1 not in (i.shape or ())[1:] for i in self.inputs.values())


Afterwards: TypeAlias = "Sequence[Callable[[], object]] | None"
"""What is to be done once all callers of a batch have their outcomes.

What several of them return is done once. None stands for nothing.
"""

Done: TypeAlias = "Callable[[dict[str, NDArray[Any]] | Exception], Afterwards]"
"""Takes a request's outcome: its outputs, or the exception that `run` would have raised."""


class Pending(Protocol):
    """A request under way."""

    def cancel(self) -> None:
        """Say that nobody waits for it any more; without effect once it is done. Never blocks."""


class Alike(Protocol):
    """Requests that differ in nothing but the bytes of their inputs. Thread-safe.

    A member is named by its place. It ends by `done`, or because its caller goes.
    """

    @property
    def observation(self) -> Observation:
        """Where what becomes of all of them is noted; each part that runs has its own."""

    def __len__(self) -> int: ...

    def inputs(self, members: Sequence[int]) -> Arrays:
        """Return the inputs of these members, with their rows one after the other."""

    def waiting(self, members: Sequence[int]) -> list[int]:
        """Return those of the members whose callers still wait for them."""

    def done(
        self,
        members: Sequence[int],
        outcome: dict[str, NDArray[Any]] | Exception,
        observation: Observation,
    ) -> None:
        """Take the rows that these members' run gave, or why there are none. Must not block."""

    def over(self) -> None:
        """Take note that no member waits or runs any more; called once, and must not block."""


class PendingAlike(Protocol):
    """Requests under way that are alike."""

    def leave(self, member: int) -> None:
        """Say that nobody waits for a member any more; without effect once it runs.

        Never blocks.
        """


class Model(Protocol):
    """What a loader brings. Every method may be called from any thread, at the same time."""

    default_signature: str
    """The signature of the Open Inference Protocol's requests that name none. Empty: the one that
    is called `serving_default`, or the only one."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """What it can do, by signature name."""

    @property
    def signature_defs(self) -> Mapping[str, bytes]:
        """The serialized `tensorflow.SignatureDef` of each signature, as the model has it."""

    @property
    def card_json(self) -> str | None:
        """The text of the version's model card, if it brings one."""

    def run(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        deadline: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Run the signature and return the named outputs; blocks until they are there.

        Args:
            signature: one of `signatures`.
            inputs: an array for each of its inputs, of the dtype declared.
            outputs: aliases of the outputs wanted.
            deadline: the monotonic time at which the caller stops waiting; None = never. What is
                running already is not interrupted by it.

        Raises:
            ServingError: The model refused the inputs, or failed, or the deadline passed.
        """

    def close(self) -> None:
        """Free what the version holds; called once, when nothing runs any more."""


class Servable(Model, Protocol):
    """A loaded version, with a queue in front. Every method may be called from any thread."""

    def admit(self, nbytes: int) -> None:
        """Refuse at once what would find the queue full; cheap, for before it is decoded.

        Raises:
            Unavailable: There is no room for a request of so many bytes.
        """

    def submit(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        done: Done,
        deadline: float | None = None,
        observation: Observation | None = None,
    ) -> Pending:
        """As `run`, but never blocks: `done` is called once, in another thread.

        `done` must not block. What becomes of the request on its way is noted in `observation`,
        which also says how urgent it is.

        Raises:
            ServingError: The request isn't taken, and `done` won't be called.
        """

    def takes_alike(self, signature: Signature, outputs: tuple[str, ...]) -> bool:
        """Whether `submit_alike` may take requests for these outputs at this moment; cheap."""

    def submit_alike(
        self, signature: Signature, inputs: Arrays, outputs: tuple[str, ...], alike: Alike
    ) -> PendingAlike | None:
        """Take requests that are alike, as `submit` takes each of them; never blocks.

        `inputs` are those of one of them. None: not taken, each has to be submitted by itself.

        Raises:
            ServingError: They aren't taken, as nothing can run them now.
        """
