"""Models that are loaded when requests ask for them: what is made of the settings for that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from ladle.protos.files.integrity import model_folder
from ladle.protos.files.signatures import read_signatures
from ladle.server.config import Config
from ladle.server.core.errors import InvalidArgument, ResourceExhausted, ServingError
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.transitions import Loader
from ladle.server.core.machine import malloc
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.models.failures import NO_ROOM
from ladle.server.core.models.residency import ResidencyOptions
from ladle.server.core.models.residents import Notes, Residents
from ladle.server.core.models.unloaded import Read, Reader
from ladle.server.core.servable import Servable
from ladle.server.core.servable_id import ServableId
from ladle.server.core.sources.base_path import Check
from ladle.server.core.sources.source import Source
from ladle.server.settings.model_root import ModelRoot
from ladle.server.wiring import triton
from ladle.server.wiring.startup import StartupError
from ladle.store.store import Store
from ladle.store.url import StoreUrl

# How long a load waits for those that go to make room for it: each finishes its requests first.
_LEAVING_S = 30.0
# How many versions that are not loaded are kept of what was read.
_MOST_READ = 256


class OnDemand:
    """The residents, and the root whose models they are. Order of calls: `start` and `stop`.

    Without such settings there are no residents, and nothing is started.
    """

    def __init__(
        self,
        config: Config,
        found: Callable[[tuple[ModelConfig, ...]], object],
        check: Check,
        open_store: Callable[[StoreUrl], Store],
    ) -> None:
        """Take the settings; nothing is read yet.

        Args:
            config: the settings.
            found: gets the models of the root.
            check: says what a version lacks to be whole.
            open_store: returns the bucket of a URL.
        """
        self._config = config
        self._check = check
        self._residents: Residents | None = None
        self._manager: Manager | None = None
        location = config.root
        is_far = isinstance(location, StoreUrl)
        wait_s = config.file_system_poll_wait_seconds
        if is_far and wait_s > 0:
            wait_s = max(wait_s, config.remote_poll_wait_seconds)
        digest = hashlib.sha256(os.fsencode(str(location))).hexdigest()[:16]
        self._root = ModelRoot(
            location,
            found,
            poll_wait_s=wait_s,
            remembered=config.cache_dir / "roots" / f"{digest}.json" if is_far else None,
            open_store=open_store,
        )

    def residents(self, manager: Manager, source: Source, notes: Notes) -> Residents | None:
        """Return what loads on demand; None where all models are always loaded."""
        config = self._config
        if not config.loads_on_demand:
            return None
        self._manager = manager
        self._residents = residents = Residents(
            manager,
            source,
            ResidencyOptions(
                max_models=config.max_loaded_models,
                max_bytes=config.max_loaded_bytes,
                idle_s=config.model_idle_seconds,
            ),
            notes,
            read=reader(config, self._check),
            pinned=config.pinned,
            longest_retry_wait_s=config.load_retry_interval_micros / 1e6,
        )
        manager.load_on_demand(residents)
        manager.add_listener(residents.model_changed)
        return residents

    def read(self) -> tuple[ModelConfig, ...]:
        """Return the models of the root; none where there is no root.

        Raises:
            StartupError: The root is of no use.
        """
        if not self._config.model_root:
            return ()
        try:
            return self._root.read()
        except InvalidArgument as error:
            raise StartupError(f"--model_root: {error.message}") from None

    def start(self) -> None:
        """Unload what has to go, and look for further models, from now on."""
        if self._residents is not None:
            self._residents.start()
        if self._config.model_root:
            self._root.start()

    def stop(self) -> None:
        """Do so no more."""
        self._root.stop()
        if self._residents is not None:
            self._residents.stop()

    def measured(self, load: Loader) -> Loader:
        """Return `load` with room made before it, and what it takes of the heap noted after."""

        def load_measured(servable_id: ServableId, path: Path) -> Servable:
            residents, manager = self._residents, self._manager
            if residents is None or manager is None:
                return load(servable_id, path)
            files = size_of(path)
            leaving = residents.make_room(servable_id, files)
            try:
                if not manager.wait_until(lambda: not any(map(manager.holds, leaving)), _LEAVING_S):
                    raise _still_there(servable_id)
                before = malloc.in_use()
                servable = load(servable_id, path)
            except BaseException:
                residents.measured(servable_id, None)
                raise
            residents.measured(servable_id, max(malloc.in_use() - before, files))
            return servable

        return load_measured


def reader(config: Config, check: Check) -> Reader:
    """Return what reads the signatures and the model card of a version that is not loaded."""
    from ladle.server.saved_model.loading import read_card

    @lru_cache(maxsize=_MOST_READ)
    def read(path: Path, graph: Path, _changed_ns: int, _size: int) -> Read | None:
        signatures = read_signatures(graph.parent, config.tags)
        if signatures is None or check(path) is not None:
            return None
        card_json = read_card(graph.parent)
        if triton.completes(path.parent, card_json):
            return None
        return Read(signatures, card_json)

    def read_if_whole(path: Path) -> Read | None:
        try:
            graph = model_folder(path) / "saved_model.pb"
            status = graph.stat()
            return read(path, graph, status.st_mtime_ns, status.st_size)
        except (OSError, ServingError):
            return None

    return read_if_whole


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder: about what its variables take."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def _still_there(servable_id: ServableId) -> ResourceExhausted:
    error = ResourceExhausted(
        f"no room for model {servable_id.name}: those that were to go for it still run requests; "
        "try again later"
    )
    error.reason = NO_ROOM
    error.retry_after_s = 1.0
    return error
