"""Changes of what is served, made in all workers: each is asked whether it can, and then does."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ladle.protos.serving_pb import ModelServerConfig
from ladle.server.core.errors import NotFound
from ladle.server.core.models.config import ModelConfig, model_from_proto, to_proto
from ladle.server.core.models.model_set import ModelSet
from ladle.server.wiring.workers.serving.siblings import Siblings

# For callers without a deadline.
_LONGEST_WAIT_S = 600.0


class SharedModels:
    """The models of all workers, which this one's services change; Models says how. Thread-safe."""

    def __init__(self, own: ModelSet, siblings: Siblings) -> None:
        """Take this worker's models, and the way to those of the others."""
        self._own = own
        self._siblings = siblings

    @property
    def models(self) -> Mapping[str, ModelConfig]:
        """What is configured in this worker now, by name."""
        return self._own.models

    def replace(self, models: Iterable[ModelConfig]) -> set[str]:
        """Put `models` in place of all that were; return the names that are new."""
        return set(self._change("replace", models=to_text(models)))

    def add(self, model: ModelConfig) -> None:
        """Put one model in place."""
        self._change("add", models=to_text([model]))

    def remove(self, name: str) -> None:
        """Take one model out."""
        self._change("remove", name=name)

    def set_aside(self, name: str) -> None:
        """Take one model out, and keep its configuration for `bring_back`."""
        self._change("set_aside", name=name)

    def bring_back(self, name: str) -> bool:
        """Put a model in place that was set aside or is in the catalogue; whether there is one."""
        return bool(self._change("bring_back", name=name))

    def load(self, name: str) -> None:
        """Load nothing: with several workers all models are loaded that are configured."""

    def absent(self) -> Collection[str]:
        """Return the names of the models that `bring_back` would bring."""
        return self._own.absent()

    def rescan(self, name: str) -> None:
        """Scan one model's base path now, in all workers."""
        self._change("rescan", name=name)

    def wait_for(self, names: Iterable[str], deadline: float | None) -> None:
        """Block until each model has a version available in all workers, or has failed in one."""
        remaining_s = _LONGEST_WAIT_S if deadline is None else deadline - time.monotonic()
        self._siblings.wait(sorted(names), max(0.0, min(remaining_s, _LONGEST_WAIT_S)))

    def _change(self, kind: str, **what: str) -> Any:
        return self._siblings.change({"kind": kind, **what})["result"]


class Taking:
    """What this worker does when another changes models, or it itself."""

    def __init__(self, own: ModelSet) -> None:
        """Take this worker's models."""
        self._own = own

    def check(self, change: Mapping[str, str]) -> None:
        """Find out whether a change can be made; nothing is changed.

        Raises:
            ServingError: It can't.
        """
        match change["kind"]:
            case "replace" | "add":
                models = from_text(change["models"])
                self._own.check(models, keeps_others=change["kind"] == "add")
            case "remove" | "set_aside" | "rescan":
                if change["name"] not in self._own.models:
                    raise NotFound(f"model {change['name']} is not configured")

    def apply(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """Make a change; return its result, and what is configured then.

        Where this worker `starts`, labels may be put on versions that are yet to load, as at every
        start: the other workers have them.

        Raises:
            ServingError: It can't be made.
        """
        own = self._own
        starts = bool(change.get("starts"))
        result: list[str] | bool | None = None
        match change["kind"]:
            case "replace":
                result = sorted(own.replace(from_text(change["models"]), labels_later=starts))
            case "add":
                (model,) = from_text(change["models"])
                own.add(model, labels_later=starts)
            case "remove":
                own.remove(change["name"])
            case "set_aside":
                own.set_aside(change["name"])
            case "bring_back":
                result = own.bring_back(change["name"])
            case "rescan":
                own.rescan(change["name"])
        return {"result": result, "models": self.state()}

    def wait(self, body: Mapping[str, Any]) -> None:
        """Block until models have come up.

        Raises:
            ServingError: Some did not.
        """
        self._own.wait_for(body["names"], time.monotonic() + body["timeout_s"])

    def state(self) -> dict[str, str]:
        """Return what `restore` takes."""
        aside = self._own.models_set_aside
        return {"models": to_text(self._own.models.values()), "aside": to_text(aside.values())}

    def restore(self, state: Mapping[str, str]) -> None:
        """Configure what another worker had when it was asked for its state."""
        models, aside = from_text(state["models"]), from_text(state["aside"])
        self._own.apply_first(models, set_aside=aside)


def to_text(models: Iterable[ModelConfig]) -> str:
    """Return models as text."""
    proto = ModelServerConfig()
    proto.model_config_list.SetInParent()
    proto.model_config_list.config.extend(map(to_proto, models))
    return b64encode(proto.SerializeToString(deterministic=True)).decode()


def from_text(text: str) -> tuple[ModelConfig, ...]:
    """Return the models that `to_text` made the text of."""
    proto = ModelServerConfig.FromString(b64decode(text))
    return tuple(map(model_from_proto, proto.model_config_list.config))
