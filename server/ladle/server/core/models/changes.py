"""What services need of the models that are configured, whoever else has to hear of a change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from ladle.server.core.models.config import ModelConfig


class Models(Protocol):
    """Changes which models are configured; `ModelSet` says what each method does. Thread-safe.

    All but `models` may block, and raise Unavailable where other processes have to agree and don't
    answer.
    """

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """What is configured now, by name."""

    def replace(self, models: Iterable[ModelConfig]) -> set[str]:
        """Put `models` in place of all that were; return the names that are new."""

    def add(self, model: ModelConfig) -> None:
        """Put one model in place."""

    def remove(self, name: str) -> None:
        """Take one model out."""

    def set_aside(self, name: str) -> None:
        """Take one model out, and keep its configuration for `bring_back`."""

    def bring_back(self, name: str) -> bool:
        """Put a model in place that was set aside or is in the catalogue; whether there is one."""

    def load(self, name: str) -> None:
        """Have a model loaded that is loaded on demand otherwise."""

    def absent(self) -> Collection[str]:
        """Return the names of the models that `bring_back` would bring."""

    def rescan(self, name: str) -> None:
        """Scan one model's base path now."""

    def wait_for(self, names: Iterable[str], deadline: float | None) -> None:
        """Block until each model has a version available or has failed."""
