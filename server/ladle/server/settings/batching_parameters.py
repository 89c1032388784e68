"""Batching parameters: files that are read when a version loads, and again when they change."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from google.protobuf import text_format

from ladle.protos.files.batching_file import OWN_FILE, says_off
from ladle.protos.model_card import ModelCard
from ladle.protos.serving_pb import BatchingParameters
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.clock import Clock
from ladle.server.core.errors import InvalidArgument, ServingError
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.observation import Observer
from ladle.server.core.polling import Poller
from ladle.server.core.regular_file import read_text
from ladle.server.core.servable import Model, Servable
from ladle.server.core.servable_id import ServableId
from ladle.server.settings import triton_model

logger = logging.getLogger(__name__)

_POLL_WAIT_S = 1.0
_MOST_AT_ONCE = 100
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
    return batch_options(given)


def batch_options(given: BatchingParameters) -> BatchOptions:
    """Return the options that a message says; absent ones are upstream's.

    Raises:
        InvalidArgument: Its values contradict each other.
    """
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

    enabled: bool | None
    """True: the user vouches for batches of all models. False: every request runs alone. None:
    each signature earns its batches, unless a file vouches for it."""
    file: Path | None = None
    """What holds for all models, with which the user vouches too; None = the defaults."""
    options: BatchOptions | None = None
    """What holds for all models where there is no `file`; the user vouches with it too."""
    per_model: bool = False
    """Whether a version brings its own, and one that doesn't is not batched. Of `file` it takes
    only the number of threads, as upstream."""
    unbatched: frozenset[str] = frozenset()
    """Names of the models whose requests run alone."""
    max_enqueued_bytes: int = 1 << 62
    """Bytes of inputs that may wait for one version."""
    aging_s: float = 5.0
    """After so long in a queue a request counts as one priority higher."""


class Decision(NamedTuple):
    """How a version's requests are batched."""

    options: BatchOptions | None
    """None: not at all."""
    said_by: str
    """Who vouches for batches or forbids them; empty: each signature earns them."""


class BatchingLoader:
    """Puts a batch queue before each model that `load` brings, and keeps its options up to date.

    Order of calls: `start` and `stop`, around or between loads. `step` is what the thread does
    at each poll. A file that turns wrong changes nothing, and the log says so.
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
        self._loaded: weakref.WeakKeyDictionary[BatchingServable, tuple[str, Path]] = (
            weakref.WeakKeyDictionary()
        )
        self._problems: dict[Path, str] = {}
        self._next = 0  # where the next step begins among the loaded

    def __call__(self, servable_id: ServableId, path: Path) -> Servable:
        """Load a version; blocks.

        Raises:
            ServingError: It can't be loaded, its parameters are wrong, or no thread can be had that
                would run its requests.
        """
        options, said_by = self.decide(servable_id.name, path)
        model = self._load(servable_id, path)
        servable = BatchingServable(
            model,
            options,
            said_by=said_by,
            vouched_signatures=vouched_by_card(model.card_json),
            max_enqueued_bytes=self._config.max_enqueued_bytes,
            aging_s=self._config.aging_s,
            observer=self._observer,
            servable_id=servable_id,
        )
        try:
            servable.start()
        except ServingError:
            servable.close()
            raise
        with self._lock:
            self._loaded[servable] = servable_id.name, path
        return servable

    def decide(self, name: str, path: Path) -> Decision:
        """Return how the version in `path` of the model `name` is to be batched now.

        Raises:
            InvalidArgument: A file is wrong.
        """
        config = self._config
        if name in config.unbatched:
            return Decision(None, "--unbatched_models")
        if config.enabled is False:
            return Decision(None, "--enable_batching=false")
        own_text = _text(path / OWN_FILE)
        if own_text is not None and says_off(own_text):
            return Decision(None, f"{OWN_FILE} in the version's folder")
        common = _read(config.file) if config.file else config.options
        if own_text is not None and (
            config.per_model or (config.enabled is None and common is None)
        ):
            own = _parse_file(path / OWN_FILE, own_text)
            if common:
                own = replace(own, num_batch_threads=common.num_batch_threads)
            return Decision(own, f"{OWN_FILE} in the version's folder")
        if config.per_model:
            return Decision(None, f"--enable_per_model_batching_parameters, and no {OWN_FILE}")
        if common:
            source = "--batching_parameters_file" if config.file else "--platform_config_file"
            return Decision(common, source)
        said_by = "--enable_batching" if config.enabled else ""
        described = triton_model.read(path.parent)
        if described is None:
            return Decision(BatchOptions(), said_by)
        options = described.batch_options()
        if options is None:
            return Decision(None, f"max_batch_size: 0 in {triton_model.CONFIG_FILE}")
        if described.has_dynamic_batching:
            said_by = said_by or f"dynamic_batching in {triton_model.CONFIG_FILE}"
        return Decision(options, said_by)

    def start(self) -> None:
        """Look for changes from now on, in a thread.

        Raises:
            InvalidArgument: The file for all models is wrong.
        """
        if self._config.enabled is False:
            return
        if self._config.file:
            _read(self._config.file)
        self._poller.start()

    def stop(self) -> None:
        """Look no more."""
        self._poller.stop()

    def step(self) -> None:
        """Give each loaded version the options that its files hold now.

        Of more than a hundred, a hundred at each call, in turn.
        """
        with self._lock:
            loaded = list(self._loaded.items())
        # Reading the files of thousands of versions each second would take a part of a core.
        start = self._next if self._next < len(loaded) else 0
        self._next = start + _MOST_AT_ONCE
        for servable, (name, path) in loaded[start : self._next]:
            try:
                options, said_by = self.decide(name, path)
            except InvalidArgument as error:
                if self._problems.get(path) != error.message:
                    logger.error("batching parameters left as they were: %s", error.message)
                self._problems[path] = error.message
                continue
            self._problems.pop(path, None)
            if (options, said_by) != (servable.options, servable.said_by):
                logger.info("batching parameters changed path=%s options=%s", path, options)
                servable.configure(options, said_by)


def vouched_by_card(card_json: str | None) -> frozenset[str]:
    """Return the names of the signatures whose rows a model card declares independent."""
    try:
        return frozenset(ModelCard.from_json(card_json or "").row_independent_signatures)
    except ValueError:
        return frozenset()


def _read(file: Path) -> BatchOptions:
    text = _text(file)
    if text is None:
        raise InvalidArgument(f"{file}: can't be read: there is no such file")
    return _parse_file(file, text)


def _parse_file(file: Path, text: str) -> BatchOptions:
    try:
        return parse(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error.message}") from None


def _text(file: Path) -> str | None:
    """Return what a file says; None where there is none."""
    try:
        return read_text(file, _MAX_BYTES)
    except InvalidArgument as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise InvalidArgument(f"{file}: {error.message}") from None
