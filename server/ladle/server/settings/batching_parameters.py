"""Batching parameters: files that are read when a version loads, and again when they change."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from google.protobuf import text_format

from ladle.protos.serving_pb import BatchingParameters
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.clock import Clock
from ladle.server.core.cpus import cpus
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.observation import Observer
from ladle.server.core.polling import Poller
from ladle.server.core.servable import Model, Servable
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

PER_MODEL_FILE = "batching_params.pbtxt"
"""What `--enable_per_model_batching_parameters` looks for in a version's folder."""

_POLL_WAIT_S = 1.0
_MAX_BYTES = 1 << 20


def parse(text: str) -> BatchOptions:
    """Return the options of a BatchingParameters in text format; absent ones are upstream's.

    Raises:
        InvalidArgument: It is none, or its values contradict each other.
    """
    given = BatchingParameters()
    try:
        text_format.Parse(text, given)
    except text_format.ParseError as error:
        raise InvalidArgument(f"expected BatchingParameters in text format: {error}") from None
    options = BatchOptions(num_batch_threads=cpus(), refuse_larger=True)
    try:
        if given.HasField("max_batch_size"):
            options = replace(options, max_batch_size=given.max_batch_size.value)
        if given.HasField("batch_timeout_micros"):
            options = replace(options, batch_timeout_s=given.batch_timeout_micros.value / 1e6)
        if given.HasField("max_enqueued_batches"):
            options = replace(options, max_enqueued_batches=given.max_enqueued_batches.value)
        if given.HasField("num_batch_threads"):
            options = replace(options, num_batch_threads=given.num_batch_threads.value)
        if given.HasField("max_execution_batch_size"):
            most = given.max_execution_batch_size.value
            options = replace(options, max_execution_batch_size=most)
        return replace(
            options,
            allowed_batch_sizes=tuple(given.allowed_batch_sizes),
            pad_variable_length_inputs=given.pad_variable_length_inputs,
            enable_large_batch_splitting=given.enable_large_batch_splitting.value,
        )
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class BatchingConfig:
    """Where the options of a version's batches come from."""

    enabled: bool
    """Without it every request runs alone."""
    file: Path | None = None
    """What holds for all models; None = the defaults."""
    per_model: bool = False
    """Whether a version brings its own, and one that doesn't is not batched. Of `file` it takes
    only the number of threads, as upstream."""
    max_enqueued_bytes: int = 1 << 62
    """Bytes of inputs that may wait for one version."""


class BatchingLoader:
    """Puts a batch queue before each model that `load` brings, and keeps its options up to date.

    Order of calls: `start` and `stop`, around or between loads. `step` is what the thread does
    at each poll. A file that turns wrong changes nothing, and is told of in the log.
    """

    def __init__(
        self,
        load: Callable[[ServableId, Path], Model],
        config: BatchingConfig,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        """`load` loads a version from its folder; `observer` hears of each run of it."""
        self._observer = observer
        self._load = load
        self._config = config
        self._poller = Poller(
            self.step, name="batching parameters", wait_s=_POLL_WAIT_S, clock=clock
        )
        self._lock = threading.Lock()
        self._loaded: weakref.WeakKeyDictionary[BatchingServable, Path] = (
            weakref.WeakKeyDictionary()
        )
        self._problems: dict[Path, str] = {}

    def __call__(self, servable_id: ServableId, path: Path) -> Servable:
        """Load a version; blocks.

        Raises:
            ServingError: It can't be loaded, or its parameters are wrong.
        """
        options = self.options(path)
        model = self._load(servable_id, path)
        servable = BatchingServable(
            model,
            options,
            max_enqueued_bytes=self._config.max_enqueued_bytes,
            observer=self._observer,
            servable_id=servable_id,
        )
        with self._lock:
            self._loaded[servable] = path
        return servable

    def options(self, path: Path) -> BatchOptions | None:
        """Return how the version in `path` is to be batched now; None: not at all.

        Raises:
            InvalidArgument: A file is wrong.
        """
        config = self._config
        if not config.enabled:
            return None
        common = _read(config.file) if config.file else None
        if not config.per_model:
            return common or BatchOptions()
        if not (path / PER_MODEL_FILE).exists():
            return None
        own = _read(path / PER_MODEL_FILE)
        return replace(own, num_batch_threads=common.num_batch_threads) if common else own

    def start(self) -> None:
        """Look for changes from now on, in a thread.

        Raises:
            InvalidArgument: The file for all models is wrong.
        """
        if not self._config.enabled or not (self._config.file or self._config.per_model):
            return
        if self._config.file:
            _read(self._config.file)
        self._poller.start()

    def stop(self) -> None:
        """Look no more."""
        self._poller.stop()

    def step(self) -> None:
        """Give every loaded version the options that its files hold now."""
        with self._lock:
            loaded = list(self._loaded.items())
        for servable, path in loaded:
            try:
                options = self.options(path)
            except InvalidArgument as error:
                if self._problems.get(path) != error.message:
                    logger.error("batching parameters left as they were: %s", error.message)
                self._problems[path] = error.message
                continue
            self._problems.pop(path, None)
            if options != servable.options:
                logger.info("batching parameters changed path=%s options=%s", path, options)
                servable.configure(options)


def _read(file: Path) -> BatchOptions:
    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise InvalidArgument(f"{file}: expected at most {_MAX_BYTES} bytes")
        return parse(data.decode())
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: can't be read: {error}") from None
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error.message}") from None
