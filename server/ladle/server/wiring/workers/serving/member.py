"""A server's part in what the workers do together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ladle.server.core.errors import Unavailable
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.model_set import ModelSet
from ladle.server.monitoring.exposition import Exposition
from ladle.server.wiring.startup import StartupError
from ladle.server.wiring.workers.serving.families_data import to_data
from ladle.server.wiring.workers.serving.shared_models import SharedModels, Taking
from ladle.server.wiring.workers.serving.siblings import Siblings


class Member:
    """Order of calls: `join`, `answer`, `stop_waiting`, `say_last`."""

    def __init__(self, own: ModelSet, siblings: Siblings, *, polls: bool) -> None:
        """Take this worker's models.

        Args:
            own: the models.
            siblings: the way to the other workers.
            polls: whether the files that state models are read again when they change.
        """
        self._own = own
        self._polls = polls
        self._siblings = siblings
        self.models = SharedModels(own, siblings)
        """What services change: the models of all workers."""

    def join(self, read: Callable[[], Iterable[ModelConfig]]) -> Callable[[], None]:
        """Take part in changes from now on; return what puts the first models in place.

        They are those that the other workers have by now, if somebody has changed them.

        Args:
            read: returns those of the flags and files.

        Raises:
            StartupError: They are of no use, or the supervisor has gone.
        """
        try:
            state = self._siblings.join()
        except Unavailable as error:
            raise StartupError(error.message) from None
        if state is None:
            return partial(self._own.apply_first, read())
        # Read all the same: only what changes in the file later is put in place.
        with contextlib.suppress(StartupError):
            read()
        return partial(Taking(self._own).restore, state)

    def answer(self, exposition: Exposition, status: Callable[[], dict[str, Any]]) -> None:
        """Answer the other workers from now on.

        Args:
            exposition: has the metrics.
            status: returns what the status page says of this process.
        """
        taking = Taking(self._own)
        if not self._polls:
            self._siblings.configured(taking.state())
        number = self._siblings.number
        self._siblings.answer_with(
            {
                "metrics": lambda _: [to_data(f) for f in exposition.of_worker(number)],
                "status": lambda _: status(),
                "check": taking.check,
                "apply": taking.apply,
                "wait": taking.wait,
            }
        )

    def take_file(self, models: Iterable[ModelConfig]) -> None:
        """Put the models of a file that has changed in place of all; each worker does it by itself.

        Raises:
            FailedPrecondition: A label may not be put where it is wanted.
        """
        self._own.replace(models)
        self._siblings.have_read()

    def stop_waiting(self) -> None:
        """Have versions wait for no other worker any more."""
        self._siblings.stop_waiting()

    def say_last(self, exposition: Exposition) -> None:
        """Have the supervisor keep what this worker has counted; it counts no more."""
        self._siblings.say_last(exposition.of_worker(self._siblings.number))
