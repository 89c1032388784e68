"""A model repository as Triton has it: a folder of models, each a folder with numbered versions."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path

from ladle.protos.files.versions import version_of
from ladle.server.core.clock import Clock
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.names import is_name, unnameable
from ladle.server.core.polling import Poller
from ladle.server.core.sources.version_policy import Latest
from ladle.server.settings import triton_model

logger = logging.getLogger(__name__)


class ModelRepository:
    """Looks for models in a folder, and hands them on when there are others.

    A model that can't be served is left out, and the log says why, once. What can't be read any
    more, or has turned wrong, changes nothing: a model goes when its folder does. Order of calls:
    `read`, then `start` and `stop`; `find` at any time. `step` is what the thread does at each
    poll.
    """

    def __init__(
        self,
        folder: Path,
        replace: Callable[[tuple[ModelConfig, ...]], object],
        *,
        poll_wait_s: float,
        only: Collection[str] | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Take where to look; nothing is read yet.

        Args:
            folder: holds the models' folders.
            replace: puts models in place.
            poll_wait_s: between looks; 0 never looks again.
            only: the names of the models that are served; None for all that there are.
            clock: for tests.
        """
        self._folder = folder
        self._replace = replace
        self._only = only
        self._is_polled = poll_wait_s > 0
        self._applied: tuple[ModelConfig, ...] = ()
        self._noted: dict[str, str] = {}
        self._poller = Poller(self.step, name="model repository", wait_s=poll_wait_s, clock=clock)

    def read(self) -> tuple[ModelConfig, ...]:
        """Return the models that there are; blocks for as long as the file system does.

        Raises:
            InvalidArgument: The folder can't be read, or lacks a model that is to be served.
        """
        names = self._names()
        if self._only is not None:
            missing = sorted(set(self._only) - set(names))
            if missing:
                raise InvalidArgument(
                    f"{self._folder}: expected a folder for each model that is to be loaded, "
                    f"found none for {', '.join(missing)}"
                )
            names = sorted(self._only)
        before = {model.name: model for model in self._applied}
        found = (self._model(name) or before.get(name) for name in names)
        self._applied = tuple(model for model in found if model is not None)
        return self._applied

    def names(self) -> Collection[str]:
        """Return the names of all models that there are, served or not; none if it can't be read.

        Blocks for as long as the file system does.
        """
        try:
            return self._names()
        except InvalidArgument:
            return ()

    def find(self, name: str) -> ModelConfig | None:
        """Return the model of that name; None if the folder has none. Blocks as `names` does.

        Raises:
            InvalidArgument: It can't be served; the message says why.
        """
        return self._described(name) if name in self.names() else None

    def start(self) -> None:
        """Look again from now on, in a thread."""
        if self._is_polled:
            self._poller.start()

    def stop(self) -> None:
        """Look no more."""
        self._poller.stop()

    def step(self) -> None:
        """Look again, and put the models in place if they are others than before."""
        before = self._applied
        try:
            models = self.read()
        except InvalidArgument as error:
            self._note("", error.message)
            return
        if before and not models:  # as of a volume that is not mounted any more
            self._applied = before
            self._note("", f"{self._folder} holds no models: those that there were are left")
            return
        self._noted.pop("", None)
        if models != before:
            self._replace(models)
            logger.info("model repository changed models=%s", [model.name for model in models])

    def _names(self) -> list[str]:
        """Return the names of the folders that hold versions, or say that they are models."""
        try:
            with os.scandir(self._folder) as children:
                folders = [child for child in children if child.is_dir()]
            return sorted(child.name for child in folders if self._is_model(child.name))
        except OSError as error:
            reason = error.strerror or str(error)
            raise InvalidArgument(f"{self._folder}: can't be read: {reason}") from None

    def _is_model(self, name: str) -> bool:
        """Whether a folder holds versions or a config.pbtxt, or did before it was unreadable."""
        if not is_name(name):
            self._note(name, unnameable(self._folder / name))
            return False
        try:
            children = os.listdir(self._folder / name)
        except OSError as error:
            self._note(name, f"{self._folder / name}: can't be read: {error.strerror or error}")
            return any(model.name == name for model in self._applied)
        return triton_model.CONFIG_FILE in children or any(
            version_of(child) is not None for child in children
        )

    def _model(self, name: str) -> ModelConfig | None:
        try:
            model = self._described(name)
        except InvalidArgument as error:
            self._note(name, error.message)
            return None
        self._noted.pop(name, None)
        return model

    def _described(self, name: str) -> ModelConfig:
        folder = self._folder / name
        described = triton_model.read(folder)
        policy = described.policy if described is not None else None
        return ModelConfig(name, folder.absolute(), policy or Latest())

    def _note(self, name: str, problem: str) -> None:
        if self._noted.get(name) != problem:
            self._noted[name] = problem
            logger.error("model left out: %s" if name else "model repository: %s", problem)
