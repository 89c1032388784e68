"""What loaded versions take of the heap, as far as that was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from ladle.server.core.servable_id import ServableId

# How many measurements are kept, for the next loads of the same versions.
_MOST_MEASURED = 100_000


class Footprints:
    """The bytes of versions that are loaded, or about to be. Whoever has it guards it by a lock."""

    def __init__(self) -> None:
        self._taken: dict[ServableId, int] = {}
        self._measured: dict[ServableId, int] = {}  # of what was loaded once
        self._by_model: dict[str, int] = {}  # the last of these

    def expected(self, servable_id: ServableId, estimate: int) -> int:
        """Return what a version takes that is about to load: as last time, or the estimate.

        What it took in its last life counts no longer.
        """
        self._taken.pop(servable_id, None)
        return self._measured.get(servable_id, estimate)

    def reserve(self, servable_id: ServableId, nbytes: int) -> None:
        """Take note of what a version will take."""
        self._taken[servable_id] = nbytes

    def note(self, servable_id: ServableId, nbytes: int | None) -> None:
        """Take note of what a version has taken; None: it could not be loaded."""
        if nbytes is None:
            self._taken.pop(servable_id, None)
            return
        self._taken[servable_id] = self._measured[servable_id] = nbytes
        self._by_model[servable_id.name] = nbytes
        while len(self._measured) > _MOST_MEASURED:
            del self._measured[next(iter(self._measured))]

    def keep(self, is_held: Callable[[ServableId], bool]) -> None:
        """Forget what versions have taken that take nothing any more."""
        for servable_id in [i for i in self._taken if not is_held(i)]:
            del self._taken[servable_id]

    def forget_models(self, names: Collection[str]) -> None:
        """Forget what these models took when they were loaded last."""
        for name in names:
            self._by_model.pop(name, None)

    def last(self, name: str) -> int | None:
        """Return what a model took when it was loaded last; None if that is not known."""
        return self._by_model.get(name)

    def leaving(self, staying: Collection[str]) -> list[ServableId]:
        """Return the versions that take something still, of models that are not to stay."""
        return [servable_id for servable_id in self._taken if servable_id.name not in staying]

    def by_model(self) -> Mapping[str, int]:
        """Return what each model takes; 0 for others."""
        found: Counter[str] = Counter()
        for servable_id, nbytes in self._taken.items():
            found[servable_id.name] += nbytes
        return found

    @property
    def total(self) -> int:
        """What all of them take."""
        return sum(self._taken.values())
