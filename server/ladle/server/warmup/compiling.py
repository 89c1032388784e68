"""Compiles for a version, before it is available, what has run on the version before it."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from ladle.server.core.servable import Model, Signature
from ladle.server.core.servable_id import ServableId

logger = logging.getLogger(__name__)

MAX_COMPILED = 16
"""So much at most; the rest is compiled when it is asked for."""


@runtime_checkable
class Compiling(Protocol):
    """A model that compiles a signature for each set of outputs: at the first run, or before."""

    @property
    def used(self) -> Sequence[tuple[str, tuple[str, ...]]]:
        """The names of signatures that have run, each with the outputs."""

    def compile(self, signature: Signature, outputs: tuple[str, ...]) -> None:
        """Compile a signature for these outputs, so that the first run need not; blocks.

        Raises:
            ServingError: It can't be.
        """


class CompilingAsBefore:
    """Loads models, and compiles for each what has run on loaded versions of the same model.

    Otherwise the first requests to a version would wait for that. Nothing is run. It takes memory
    that the same requests to this version would take. Thread-safe.
    """

    def __init__(self, load: Callable[[ServableId, Path], Model]) -> None:
        """Take what loads a version; it blocks, and raises ServingError."""
        self._load = load
        self._lock = threading.Lock()
        self._loaded: weakref.WeakKeyDictionary[Compiling, str] = weakref.WeakKeyDictionary()

    def __call__(self, servable_id: ServableId, path: Path) -> Model:
        """Load a version; blocks. What can't be compiled fails the requests that ask for it.

        Raises:
            ServingError: It can't be loaded.
        """
        model = self._load(servable_id, path)
        if isinstance(model, Compiling):
            for name, outputs in self._used(servable_id.name):
                signature = model.signatures.get(name)
                if signature is not None and signature.outputs.keys() >= set(outputs):
                    _compile(servable_id, model, signature, outputs)
            with self._lock:
                self._loaded[model] = servable_id.name
        return model

    def _used(self, name: str) -> list[tuple[str, tuple[str, ...]]]:
        with self._lock:
            loaded = [model for model, of in self._loaded.items() if of == name]
        return chosen([each for model in loaded for each in model.used])


def chosen(used: Collection[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    """Return what is compiled of all that has run: each once, and those of most outputs first."""
    return sorted(dict.fromkeys(used), key=lambda each: -len(each[1]))[:MAX_COMPILED]


def _compile(
    servable_id: ServableId, model: Compiling, signature: Signature, outputs: tuple[str, ...]
) -> None:
    try:
        model.compile(signature, outputs)
    except Exception as error:
        logger.warning(
            "not compiled before it is available model=%s version=%d signature=%s error=%s",
            *servable_id,
            signature.name,
            error,
        )
