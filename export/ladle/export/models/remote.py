"""What a running server says of its models, for `ladle models --server`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ladle.client import Client, LadleError, NotFound, Unimplemented
from ladle.client.models import ModelMetadata, ServedModel, VersionState, VersionStatus
from ladle.export.errors import ExportError

_TIMEOUT_S = 20.0


def list_served(server: str, model: str | None) -> list[dict[str, Any]]:
    """Return every version that a ladle server has of its models, or of the one named.

    A model without versions is listed too, with its problem; so is one that the server has not
    loaded because nobody has asked for it.

    Raises:
        ExportError: The server can't be reached, is not ladle's, or refuses.
    """
    with _asking(server) as client:
        try:
            models = client.models(model)
        except Unimplemented as error:
            raise ExportError(
                f"{server}: expected a ladle server, to list its models; of another one"
                " `ladle models show MODEL --server` shows one model"
            ) from error
    return [row for served in models for row in _rows(served)]


def show_served(server: str, model: str, version: int | None) -> dict[str, Any]:
    """Return the states of a model's versions, and the card and signatures of the one that serves.

    That is the one given, or the server's choice. Any TensorFlow Serving can tell, but for the
    card.

    Raises:
        ExportError: The server can't be reached, or has no such model or version available.
    """
    with _asking(server) as client:
        metadata = _metadata(client, model, version)
        states = client.status(model)
    return {
        "model": model,
        "version": metadata.version,
        "server": server,
        "versions": [_state(status) for status in states],
        "signatures": _signatures(metadata),
        "card": _card(metadata),
    }


def card_served(server: str, model: str, version: int) -> dict[str, Any]:
    """Return the card of a version that a server has available; empty where it has none.

    Raises:
        ExportError: As for `show_served`.
    """
    with _asking(server) as client:
        return _card(_metadata(client, model, version))


def _metadata(client: Client, model: str, version: int | None) -> ModelMetadata:
    """Return what a server says of a version; where it has not loaded it, say how it would."""
    try:
        return client.metadata(model, version=version)
    except NotFound:
        states = client.status(model)  # raises too where there is no such model
        loaded = [str(s.version) for s in states if s.state is VersionState.AVAILABLE]
        if version is None or str(version) in loaded:
            raise
        failed = [s for s in states if s.version == version and s.error_message]
        if failed:
            raise ExportError(
                f"version {version} of {model} can't be loaded there: {failed[0].error_message}"
            ) from None
        try:
            base_path = client.models(model)[0].base_path
        except Unimplemented:
            advice = "its version policy says which versions it loads"
        else:
            advice = f"a label keeps it loaded: ladle models label {base_path} NAME {version}"
        raise ExportError(
            f"version {version} of {model} is not loaded there; loaded: "
            f"{', '.join(loaded) or 'none'}; {advice}"
        ) from None


@contextmanager
def _asking(server: str) -> Iterator[Client]:
    try:
        with Client(server, timeout=_TIMEOUT_S) as client:
            yield client
    except (ExportError, LadleError, ValueError) as error:
        raise ExportError(f"{server}: {error}") from error


def _rows(served: ServedModel) -> list[dict[str, Any]]:
    told = {"model": served.name, "problem": served.problem}
    available = [s.version for s in served.versions if s.state is VersionState.AVAILABLE]
    rows = [
        {
            **told,
            **_state(status),
            "serves": status.version == max(available, default=None),
            "labels": sorted(k for k, v in served.labels.items() if v == status.version),
            "signatures": sorted(served.signatures.get(status.version, ())),
        }
        for status in served.versions
    ]
    state = "UNLOADED" if served.is_unloaded else None
    none: dict[str, Any] = {"version": None, "state": state, "serves": False, "labels": []}
    return rows or [told | none | {"signatures": []}]


def _state(status: VersionStatus) -> dict[str, Any]:
    told: dict[str, Any] = {"version": status.version, "state": status.state.name}
    return told | {"error": status.error_message} if status.error_message else told


def _signatures(metadata: ModelMetadata) -> dict[str, Any]:
    return {
        name: {
            "inputs": {key: str(spec) for key, spec in signature.inputs.items()},
            "outputs": {key: str(spec) for key, spec in signature.outputs.items()},
        }
        for name, signature in metadata.signatures.items()
    }


def _card(metadata: ModelMetadata) -> dict[str, Any]:
    return {} if metadata.card is None else json.loads(metadata.card.to_json())
