"""The model config file: read at the start, and again whenever its text is another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ladle.server.core.clock import Clock
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.models.config import ModelConfig, read_text
from ladle.server.settings.polled_file import PolledFile
from ladle.store.opening import open_store
from ladle.store.store import Store
from ladle.store.url import StoreUrl

logger = logging.getLogger(__name__)

_MAX_BYTES = 64 << 20


class ConfigFile(PolledFile[tuple[ModelConfig, ...]]):
    """Polls the file, and hands its models on."""

    def __init__(
        self,
        path: Path | StoreUrl,
        replace: Callable[[tuple[ModelConfig, ...]], object],
        *,
        poll_wait_s: float,
        clock: Clock | None = None,
        open_store: Callable[[StoreUrl], Store] = open_store,
    ) -> None:
        """Take `replace`, which puts models in place or raises ServingError; 0 never polls."""
        super().__init__(
            path,
            read_text,
            replace,
            name="model config",
            max_bytes=_MAX_BYTES,
            poll_wait_s=poll_wait_s,
            clock=clock,
            open_store=open_store,
        )

    def read(self) -> tuple[ModelConfig, ...]:
        """Return the models of the start; none of an empty file, to which a reload may add some.

        Later an empty file is refused: it may be one that is just being written.
        """
        try:
            return super().read()
        except InvalidArgument:
            if self.is_blank:
                logger.warning("the model config file is empty: no models before it is reloaded")
                return ()
            raise
