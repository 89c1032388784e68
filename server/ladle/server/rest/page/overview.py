"""What the status page shows of the server: models, versions, and how they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from ladle.protos import dtypes
from ladle.protos.model_card import ModelCard
from ladle.server.core.batching.batcher import BatchingServable
from ladle.server.core.batching.trust import Status
from ladle.server.core.errors import NotFound
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.registry import VersionStatus
from ladle.server.core.lifecycle.states import State
from ladle.server.core.servable import Servable, TensorSpec
from ladle.server.rpc.status import bounded

Figures: TypeAlias = "Callable[[], Mapping[str, Mapping[str, Any]]]"
"""Returns how each model does at this moment, by name; blocks a little."""


def overview(manager: Manager, names: list[str], figures: Figures) -> list[dict[str, Any]]:
    """Return each model as JSON's own types, in the order of `names`."""
    found = figures()
    return [
        {
            "name": name,
            "available": manager.is_available(name),
            "problem": bounded(manager.problem(name) or ""),
            "load": found.get(name),
            "versions": [
                _version(manager, name, status, manager.labels(name))
                for status in manager.status(name)
            ],
        }
        for name in names
    ]


def _version(
    manager: Manager, name: str, status: VersionStatus, labels: Mapping[str, int]
) -> dict[str, Any]:
    version, state, error = status
    shown: dict[str, Any] = {
        "version": str(version),  # JavaScript's numbers end at 2**53
        "state": state.name,
        "error_code": error.code.name if error else "OK",
        "error": bounded(error.message) if error else "",
        "labels": sorted(label for label, of in labels.items() if of == version),
        "signatures": {},
        "classes": [],
        "normalization": None,
        "accuracy": None,
    }
    if state is State.AVAILABLE:
        try:
            with manager.acquire(name, version, is_use=False) as handle:
                shown["signatures"] = _signatures(handle.servable)
                shown |= _card(handle.servable.card_json)
        except NotFound:
            pass  # it went out of service just now
    return shown


def _signatures(servable: Servable) -> dict[str, Any]:
    standings = servable.standings() if isinstance(servable, BatchingServable) else {}
    return {
        name: {
            "method_name": signature.method_name,
            "batching": _batching(standings.get(name)),
            "inputs": {alias: _tensor(spec) for alias, spec in signature.inputs.items()},
            "outputs": {alias: _tensor(spec) for alias, spec in signature.outputs.items()},
        }
        for name, signature in sorted(servable.signatures.items())
    }


def _batching(status: Status | None) -> dict[str, str] | None:
    return status and {"state": status.standing.value, "reason": bounded(status.reason)}


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    shape = None if spec.shape is None else list(spec.shape)
    return {"dtype": dtypes.name(spec.data_type), "shape": shape}


@lru_cache(maxsize=64)
def _card(text: str | None) -> Mapping[str, Any]:
    """Return what the page needs of a model card."""
    try:
        card = ModelCard.from_json(text or "")
    except ValueError:
        return {}
    scaling = card.normalization
    return {
        "classes": list(card.labels),
        "normalization": scaling and {"offset": scaling.offset, "divisor": scaling.divisor},
        "accuracy": card.metrics.get("accuracy"),
    }
