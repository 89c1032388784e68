"""A request on its way through a batch queue, and the queue; changed under the batcher's lock."""

from __future__ import annotations

from ladle.server.core.servable import Arrays, Done, Signature


class Task:
    """One request. It is done exactly once: with its outputs, its error, or because it left."""

    __slots__ = (
        "arrived",
        "deadline",
        "done",
        "inputs",
        "nbytes",
        "outputs",
        "over",
        "owner",
        "pieces",
        "queue",
        "rows",
        "signature",
        "total",
    )  # fmt: skip

    def __init__(
        self,
        signature: Signature,
        inputs: Arrays,
        outputs: tuple[str, ...],
        rows: int,
        deadline: float | None,
        done: Done,
    ) -> None:
        self.signature = signature
        self.inputs = inputs
        self.outputs = outputs
        self.total = rows
        self.rows = rows
        self.nbytes = sum([array.nbytes for array in inputs.values()])
        self.deadline = deadline
        self.done = done
        self.over = False
