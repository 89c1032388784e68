"""The models that lie in stores: their cache, their threads, and how often a store is asked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from ladle.server.config import Config
from ladle.server.core.clock import Clock, MonotonicClock
from ladle.server.core.remote.base import RemoteBase
from ladle.server.core.remote.beside import Beside
from ladle.server.core.remote.cache import Cache
from ladle.server.core.remote.decisions import Schedule
from ladle.server.core.remote.options import Notes, RemoteOptions
from ladle.server.core.remote.workers import Workers
from ladle.server.core.sources.base_path import Check
from ladle.server.settings import triton_model
from ladle.store.errors import Misconfigured
from ladle.store.opening import open_store
from ladle.store.store import Store
from ladle.store.url import StoreUrl

# Of each bucket. A look takes some tens of milliseconds; a version has threads of its own.
_LOOKS_AT_A_TIME = 8
_FETCHES_AT_A_TIME = 2


class RemoteModels:
    """Makes the bases of models in stores; the cache's folder is made with the first of them."""

    def __init__(
        self,
        config: Config,
        check: Check,
        notes: Notes,
        *,
        open_store: Callable[[StoreUrl], Store] = open_store,
        clock: Clock | None = None,
    ) -> None:
        """Take the settings; nothing is made or sent.

        Args:
            config: the settings.
            check: says what a version's folder lacks.
            notes: hears of what is fetched.
            open_store: returns the bucket of a URL.
            clock: for tests.
        """
        self.cache = Cache(config.cache_dir, config.model_cache_bytes)
        """Where versions lie on the disk."""
        self._is_started = False
        self._open_store = open_store
        wait_s = config.file_system_poll_wait_seconds
        self._options = RemoteOptions(
            cache=self.cache,
            open_store=self._opened,
            check=check,
            beside=Beside(config=triton_model.CONFIG_FILE, named=triton_model.files_named),
            schedule=Schedule(
                max(wait_s, config.remote_poll_wait_seconds), config.remote_settle_seconds
            ),
            once=wait_s <= 0,
            require_store=config.require_remote,
            threads=config.num_download_threads,
            looks=Workers(_LOOKS_AT_A_TIME, "look at a store"),
            fetches=Workers(_FETCHES_AT_A_TIME, "fetch"),
            notes=notes,
            clock=clock or MonotonicClock(),
            wall=time.time,
            chance=random.random,
        )

    def base(self, url: StoreUrl, model: str, changed: Callable[[], None]) -> RemoteBase:
        """Return the base of a model; `changed` is called when a scan would show something new."""
        return RemoteBase(url, model, self._options, changed)

    def folders(self, url: StoreUrl) -> Sequence[str]:
        """Return the names of the folders at a place in a store; blocks.

        Raises:
            StoreError: The store does not say.
        """
        return self._open_store(url).list_folder(url.path).folders

    def stop(self) -> None:
        """Begin nothing more."""
        self._options.looks.close()
        self._options.fetches.close()

    def _opened(self, url: StoreUrl) -> Store:
        if not self._is_started:
            try:
                self.cache.start()
            except OSError as error:
                raise Misconfigured(
                    f"--model_cache_dir: {self.cache.root} can't be written: "
                    f"{error.strerror or error}"
                ) from None
            self._is_started = True
        return self._open_store(url)
