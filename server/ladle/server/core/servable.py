"""What is served: a version of a model, its signatures, and what running one means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ladle.protos import tensors

Arrays = Mapping[str, NDArray[Any]]
"""Arrays by their alias in a signature."""

DEFAULT_SIGNATURE = "serving_default"


class ServableId(NamedTuple):
    """One version of one model."""

    name: str
    version: int

    def __str__(self) -> str:
        return f"{{name: {self.name} version: {self.version}}}"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output as a signature declares it."""

    data_type: int
    """Its DataType number, never a reference type."""
    shape: tuple[int, ...] | None
    """-1 stands for any size; None where even the rank is open."""
    feed_name: str = ""
    """The tensor's name in the graph, for messages."""

    def __str__(self) -> str:
        return tensors.describe(self.data_type, self.shape)

    @property
    def has_open_rows(self) -> bool:
        """Whether the first dimension is declared, and open: a place for rows of many callers."""
        return bool(self.shape) and self.shape is not None and self.shape[0] == -1

    def admits(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape is what was declared."""
        return self.shape is None or (
            len(shape) == len(self.shape)
            and all(
                declared in (-1, size) for declared, size in zip(self.shape, shape, strict=True)
            )
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

    @property
    def batchable(self) -> bool:
        """Whether rows of different callers can share a run: every tensor has an open first dim."""
        specs = [*self.inputs.values(), *self.outputs.values()]
        return bool(self.inputs) and all(spec.has_open_rows for spec in specs)


class Servable(Protocol):
    """A loaded version. Every method may be called from any thread, at the same time."""

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
