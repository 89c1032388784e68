"""A folder of models, or a place in a store: each folder in it is a model of that name."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path

from ladle.protos.files.versions import version_of
from ladle.server.core.clock import Clock
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.names import is_name, unnameable
from ladle.server.core.polling import Poller
from ladle.store.errors import StoreError
from ladle.store.opening import open_store
from ladle.store.store import Store
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

# How many of the folders that were no models are looked into again at each poll.
_LOOKED_INTO_AGAIN = 100
_MAX_REMEMBERED_BYTES = 64 << 20


class ModelRoot:
    """Lists the models, and hands them on when they are others. Of each only the name is read.

    A folder is a model once it holds a numbered folder; in a store, where looking costs a request
    for each, every folder is taken for one. A model goes when its folder does. What can't be read
    any more, or is empty, changes nothing. Order of calls: `read`, then `start` and `stop`. `step`
    is what the thread does at each poll.
    """

    def __init__(
        self,
        location: Path | StoreUrl,
        replace: Callable[[tuple[ModelConfig, ...]], object],
        *,
        poll_wait_s: float,
        remembered: Path | None = None,
        open_store: Callable[[StoreUrl], Store] = open_store,
        clock: Clock | None = None,
    ) -> None:
        """Take where to look; nothing is read yet.

        Args:
            location: the folder, or the place in a store.
            replace: puts models in place.
            poll_wait_s: between looks; 0 or less never looks again.
            remembered: the file that keeps the names that a store had, for a start without it.
            open_store: returns the bucket of a URL.
            clock: for tests.
        """
        self._location = location
        self._replace = replace
        self._remembered = remembered
        self._open_store = open_store
        self._is_polled = poll_wait_s > 0
        self._models: dict[str, ModelConfig] = {}
        self._others: dict[str, None] = {}  # folders without versions, the longest known first
        self._problem = ""
        self._poller = Poller(self.step, name="model root", wait_s=poll_wait_s, clock=clock)

    def read(self) -> tuple[ModelConfig, ...]:
        """Return the models that there are; blocks for as long as the file system or the store.

        A store that does not answer has those that it had last.

        Raises:
            InvalidArgument: The place can't be read, or holds no models.
        """
        try:
            names = self._names()
        except InvalidArgument as error:
            recalled = self._recall()
            if not recalled:
                raise
            logger.warning("%s: going on with the %d models it had", error.message, len(recalled))
            names = recalled
        if not names:
            raise InvalidArgument(self._without_models())
        return self._take(names)

    def start(self) -> None:
        """Look again from now on, in a thread."""
        if self._is_polled:
            self._poller.start()

    def stop(self) -> None:
        """Look no more."""
        self._poller.stop()

    def step(self) -> None:
        """Look again, and put the models in place if they are others than before."""
        try:
            names = self._names()
        except InvalidArgument as error:
            self._note(error.message)
            return
        if not names and self._models:  # as of a volume that is not mounted any more
            self._note(f"{self._location} holds no models: those that there were are left")
            return
        self._problem = ""
        if names != self._models.keys():
            known = len(self._models)
            self._replace(self._take(names))
            logger.info("model root changed models=%d before=%d", len(names), known)

    def _take(self, names: Collection[str]) -> tuple[ModelConfig, ...]:
        before = self._models
        self._models = {
            name: before.get(name) or ModelConfig(name, self._location / name)
            for name in sorted(names)
        }
        if isinstance(self._location, StoreUrl):
            self._remember(list(self._models))
        return tuple(self._models.values())

    def _names(self) -> Collection[str]:
        if isinstance(self._location, StoreUrl):
            return self._stored(self._location)
        try:
            with os.scandir(self._location) as children:
                folders = {child.name for child in children if child.is_dir()}
        except OSError as error:
            raise InvalidArgument(
                f"{self._location}: can't be read: {error.strerror or error}"
            ) from None
        for gone in self._others.keys() - folders:
            del self._others[gone]
        again = list(islice(self._others, _LOOKED_INTO_AGAIN))
        new = folders - self._models.keys() - self._others.keys()
        models = folders & self._models.keys()
        for name in sorted(new):
            if not is_name(name):
                logger.warning("model left out: %s", unnameable(self._location / name))
        for name in (*again, *sorted(new)):
            self._others.pop(name, None)
            if is_name(name) and _holds_versions(self._location / name):
                models.add(name)
            else:
                self._others[name] = None
        return models

    def _stored(self, url: StoreUrl) -> Collection[str]:
        try:
            return frozenset(self._open_store(url).list_folder(url.path).folders)
        except (StoreError, ValueError) as error:
            raise InvalidArgument(f"{url}: {error}") from None

    def _without_models(self) -> str:
        if any(version_of(name) is not None for name in self._others):
            return (
                f"{self._location} holds versions of one model: expected the folder that holds "
                f"models, {self._location.parent}, or --model_base_path"
            )
        return f"{self._location} holds no models: expected folders with numbered folders in them"

    def _remember(self, names: list[str]) -> None:
        if self._remembered is None:
            return
        staged = self._remembered.with_name(f"{self._remembered.name}.{os.getpid()}")
        try:
            self._remembered.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            staged.write_text(json.dumps(names))
            staged.replace(self._remembered)
        except OSError as error:
            logger.warning("the models of %s can't be remembered: %s", self._location, error)

    def _recall(self) -> list[str]:
        if self._remembered is None:
            return []
        try:
            if self._remembered.stat().st_size > _MAX_REMEMBERED_BYTES:
                return []
            names = json.loads(self._remembered.read_text())
        except (OSError, ValueError):
            return []
        return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []

    def _note(self, problem: str) -> None:
        if self._problem != problem:
            self._problem = problem
            logger.error("model root: %s", problem)


def _holds_versions(folder: Path) -> bool:
    try:
        return any(version_of(child) is not None for child in os.listdir(folder))
    except OSError:
        return False
