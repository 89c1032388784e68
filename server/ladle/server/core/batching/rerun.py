"""Runs requests once more, which their callers have the answers of, and says what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import NamedTuple

from ladle.server.core.batching.comparison import difference
from ladle.server.core.batching.queue import QueueKey
from ladle.server.core.batching.rows import Outputs, RowsLost, merge_inputs, split_outputs
from ladle.server.core.errors import Code, ServingError
from ladle.server.core.servable import Arrays, Model, Signature

# These say that there was no room or no time, and nothing of the rows.
_PASSING = frozenset(
    (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELLED)
)


class Inconclusive(Exception):
    """A comparison has shown nothing of the rows; the message says why."""


class Sample(NamedTuple):
    """A request that was answered."""

    inputs: Arrays
    outputs: Outputs
    rows: int
    nbytes: int


class Comparison(NamedTuple):
    """What is to run once more."""

    signature: Signature
    key: QueueKey
    samples: list[Sample]
    padded: int
    """Rows of the batch to run; 0 where the samples come from a batch, and are run alone."""

    @property
    def grows(self) -> bool:
        """Whether the samples come from a batch, and a larger one is to run."""
        return self.padded > 0 and not self.key.on_trial


def repeated(samples: Sequence[Sample], rows: int) -> list[Sample]:
    """Return samples, the same ones again and again, as far as they fit into so many rows."""
    chosen: list[Sample] = []
    for sample in cycle(samples):
        rows -= sample.rows
        if rows < 0:
            break
        chosen.append(sample)
    return chosen


def run_again(model: Model, comparison: Comparison, ends: Callable[[], bool]) -> str:
    """Return how the answers differ from those that callers got, empty if they don't; blocks.

    Args:
        model: what runs.
        comparison: what to run.
        ends: whether to run nothing more.

    Raises:
        Inconclusive: That could not be seen.
    """
    signature, key, samples, padded = comparison
    given = [sample.outputs for sample in samples]
    try:
        if not padded:
            again = []
            for sample in samples:
                if ends():
                    raise Inconclusive("the version is unloaded")
                again.append(model.run(signature, sample.inputs, key.outputs))
            return difference(again, given) or ""
        inputs = merge_inputs([sample.inputs for sample in samples], padded, pads=key.pads)
        results = model.run(signature, inputs, key.outputs)
        counts = [sample.rows for sample in samples]
        return difference(given, split_outputs(results, counts, padded)) or ""
    except (Inconclusive, MemoryError) as error:
        raise Inconclusive(str(error)) from error
    except RowsLost as error:
        return str(error)
    except Exception as error:
        is_passing = isinstance(error, ServingError) and error.code in _PASSING
        if is_passing or comparison.grows:  # smaller batches of callers ran
            raise Inconclusive(str(error)) from error
        ran, failed = ("alone", "in a batch") if padded else ("in a batch", "alone")
        return f"what ran {ran} failed {failed}: {error}"
