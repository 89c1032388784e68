"""Which signatures may run in batches: each one earns it, unless somebody vouches for it.

    on trial --enough comparisons agreed--> batched
    on trial, batched --a comparison differed, inputs of unequal rows--> alone
    vouched, on trial, batched --outputs without a row for each row--> alone

Batches that were earned have no more rows than a comparison had that agreed: a model may mix rows
in large batches alone.

A signature of a stateful graph is alone from the start. What the user says comes before all of
that, except for lost rows: then there is nothing that could be given to each caller.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import NamedTuple

from ladle.server.core.servable import Signature

PROOF = 32
"""How many batches must have had the answers of lone runs before callers get answers of batches."""

# Each combination of signatures that run as one has a record; callers choose the combination.
_MAX_COMBINATIONS = 64
# So many sets of outputs have their standing kept, which callers choose too.
_MAX_KNOWN = 256


class Standing(Enum):
    """How the requests to a signature run."""

    VOUCHED = "vouched"
    """In batches: the user or the model card says that rows are independent."""
    ON_TRIAL = "on trial"
    """One by one. Some are run again in a batch afterwards, to compare the answers."""
    BATCHED = "batched"
    """In batches no larger than those compared. A small share is still compared."""
    ALONE = "alone"
    """One by one."""


class Event(Enum):
    """What is learnt of a signature while it runs."""

    PROVED = "enough comparisons agreed"
    DIFFERED = "a batch had another answer than lone runs, or could have no right one"
    ROWS_LOST = "an output had not a row for each row of the batch"


TRANSITIONS: Mapping[tuple[Standing, Event], Standing] = {
    (Standing.ON_TRIAL, Event.PROVED): Standing.BATCHED,
    (Standing.ON_TRIAL, Event.DIFFERED): Standing.ALONE,
    (Standing.BATCHED, Event.DIFFERED): Standing.ALONE,
    (Standing.ON_TRIAL, Event.ROWS_LOST): Standing.ALONE,
    (Standing.BATCHED, Event.ROWS_LOST): Standing.ALONE,
    (Standing.VOUCHED, Event.ROWS_LOST): Standing.ALONE,
}
"""Every other event leaves the standing as it is."""


class Status(NamedTuple):
    """A signature's standing, and why it is that."""

    standing: Standing
    reason: str


@dataclass(frozen=True)
class Record:
    """What runs have shown of one signature."""

    agreed: Mapping[str, int] = field(default_factory=dict)
    """For each output, how many comparisons agreed in which every input varied."""
    compared_rows: Mapping[str, int] = field(default_factory=dict)
    """For each output, how many rows the largest batch had in a comparison that agreed."""
    difference: str = ""
    """Why batches change an answer; empty as long as none did."""
    lost_rows: str = ""
    """Why no batch can be split; empty as long as each could be."""

    def with_agreement(self, outputs: Collection[str], rows: int) -> Record:
        """Return the record after one more comparison in which these outputs agreed.

        `rows` is how many the batch had that ran for it; 0 where it had run for callers.
        """
        compared = self.compared_rows
        return replace(
            self,
            agreed={**self.agreed, **{o: self.agreed.get(o, 0) + 1 for o in outputs}},
            compared_rows={**compared, **{o: max(compared.get(o, 0), rows) for o in outputs}},
        )

    def with_difference(self, difference: str) -> Record:
        """Return the record after a difference; the first one stays."""
        return replace(self, difference=self.difference or difference)

    def with_lost_rows(self, why: str) -> Record:
        """Return the record after a batch that could not be split."""
        return replace(self, lost_rows=self.lost_rows or why)

    def standing(self, outputs: Collection[str], first: Standing = Standing.ON_TRIAL) -> Standing:
        """Return how requests for these outputs run, where `first` was the standing before any."""
        standing = first
        if outputs and all(self.agreed.get(output, 0) >= PROOF for output in outputs):
            standing = TRANSITIONS.get((standing, Event.PROVED), standing)
        if self.difference:
            standing = TRANSITIONS.get((standing, Event.DIFFERED), standing)
        if self.lost_rows:
            standing = TRANSITIONS.get((standing, Event.ROWS_LOST), standing)
        return standing


_NOTHING = Record()


class _Known(NamedTuple):
    """A standing, and what it was found from."""

    record: Record | None
    vouched_by: str
    standing: Standing


class Trust:
    """The standing of each signature of one version. Thread-safe; reading takes no lock.

    Records are frozen and replaced as a whole, under `_lock`.
    """

    def __init__(
        self,
        signatures: Mapping[str, Signature],
        *,
        vouched_by: str = "",
        card: Collection[str] = (),
    ) -> None:
        """Begin with nothing proved.

        Args:
            signatures: the version's, by name.
            vouched_by: the flag or file with which the user vouches for all; empty if none does.
            card: names of the signatures that the model card vouches for.
        """
        self.vouched_by = vouched_by
        """May be replaced at any time: what runs have shown stays noted beneath."""
        self._signatures = signatures
        self._card = frozenset(card)
        self._records: dict[str, Record] = {}
        # What each request asks for, as long as the record and the voucher are the same.
        self._known: dict[tuple[str, tuple[str, ...]], _Known] = {}
        self._lock = threading.Lock()

    def standing(self, signature: Signature, outputs: tuple[str, ...]) -> Standing:
        """Return how a request to `signature` for these of its outputs runs."""
        record = self._records.get(signature.name)
        vouched_by = self.vouched_by
        known = self._known.get((signature.name, outputs))
        if known is not None and known.record is record and known.vouched_by is vouched_by:
            return known.standing  # nearly always so, in no time
        standing = self._first(signature).standing
        if record is not None:
            standing = record.standing(outputs, standing)
        if not signature.parts:  # those depend on the records of others
            if len(self._known) >= _MAX_KNOWN:
                self._known = {}
            self._known[signature.name, outputs] = _Known(record, vouched_by, standing)
        return standing

    def most_rows(self, signature: Signature, outputs: Collection[str]) -> int | None:
        """Return how many rows a batch for these outputs may have: no more than were compared.

        None: any number, because somebody vouches, or because none runs in a batch.
        """
        record = self._records.get(signature.name)
        if record is None or not record.agreed:
            return None
        return max(1, min([record.compared_rows.get(output, 0) for output in outputs]))

    def agreed(self, signature: Signature, outputs: tuple[str, ...], rows: int) -> bool:
        """Note that a batch had the answers of lone runs; whether that was all that was missing.

        `rows` is as for `Record.with_agreement`.
        """
        before = self.standing(signature, outputs)
        with self._lock:
            record = self._record(signature)
            self._records[signature.name] = record.with_agreement(outputs, rows)
        after = self.standing(signature, outputs)
        return before is Standing.ON_TRIAL and after is Standing.BATCHED

    def differed(self, signature: Signature, difference: str) -> bool:
        """Note that batches change an answer; whether that was unknown before."""
        with self._lock:
            record = self._record(signature)
            self._records[signature.name] = record.with_difference(difference)
            return not record.difference

    def lost_rows(self, signature: Signature, why: str) -> bool:
        """Note that batches can't be split into answers; whether that was unknown before."""
        with self._lock:
            record = self._record(signature)
            self._records[signature.name] = record.with_lost_rows(why)
            return not record.lost_rows

    def status(self) -> dict[str, Status]:
        """Return the standing of each of the version's signatures, and why, by name."""
        return {name: self._status(each) for name, each in self._signatures.items()}

    def _record(self, signature: Signature) -> Record:
        """Return a signature's record; the caller holds `_lock`."""
        return self._records.get(signature.name, _NOTHING)

    def _first(self, signature: Signature) -> Status:
        """Return what holds for a signature before its own runs have shown anything."""
        if not signature.batchable:
            return Status(Standing.ALONE, "not every tensor has an open first dimension")
        if self.vouched_by:
            return Status(Standing.VOUCHED, self.vouched_by)
        if signature.stateful:
            return Status(Standing.ALONE, signature.stateful)
        if self._card and self._card.issuperset(signature.names):
            return Status(Standing.VOUCHED, "the model card says that its rows are independent")
        if signature.parts:
            return self._first_of_combination(signature)
        return Status(Standing.ON_TRIAL, "")

    def _first_of_combination(self, signature: Signature) -> Status:
        for name in signature.parts:
            part = self._records.get(name, _NOTHING)
            if reason := part.lost_rows or part.difference:
                return Status(Standing.ALONE, reason)
        if signature.name not in self._records and len(self._records) >= (
            _MAX_COMBINATIONS + len(self._signatures)
        ):
            return Status(Standing.ALONE, "too many combinations of signatures are on trial")
        return Status(Standing.ON_TRIAL, "")

    def _status(self, signature: Signature) -> Status:
        first = self._first(signature)
        record = self._records.get(signature.name, _NOTHING)
        standing = record.standing(tuple(record.agreed), first.standing)
        if standing is first.standing and standing is not Standing.ON_TRIAL:
            return first
        fewest = min(record.agreed.values(), default=0)
        match standing:
            case Standing.ALONE:
                return Status(standing, record.lost_rows or record.difference)
            case Standing.BATCHED:
                rows = min(record.compared_rows.values())
                why = f"{fewest} batches of up to {rows} rows had the answers of lone runs"
                return Status(standing, why)
            case _:
                return Status(
                    standing, f"{fewest} of {PROOF} batches had the answers of lone runs so far"
                )
