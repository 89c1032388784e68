"""What the flows ask of a protocol: the requests that it has, and how its answers are read."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from os import PathLike
from typing import Any

from numpy.typing import NDArray

from ladle.client.calls.effects import Flow
from ladle.client.messages.requests import EncodedRequest, ModelConfigs, Servable
from ladle.client.messages.responses import Predicted
from ladle.client.messages.streams import StreamMessages
from ladle.client.models import ModelMetadata, ServedModel, VersionStatus


class Protocol(typing.Protocol):
    """A protocol of servers. Its methods have no state, and are safe in any thread.

    What a protocol has no request for raises Unimplemented, and says what to do.
    """

    methods: tuple[str, ...]
    """The paths of the methods with one request and one answer."""
    streams: StreamMessages
    """The call that carries many predictions; a server need not have it."""
    has_chunks: bool
    """Whether servers may send an answer in several messages."""
    other: str
    """What to do where a server has none of these methods: it may speak the other protocol."""
    always_has_metadata: bool
    """Whether a server without metadata probably speaks the other protocol."""

    def check_examples(self, what: str) -> None:
        """Check that the protocol has requests of tf.Examples; `what` is the caller's method.

        Raises:
            Unimplemented: It has none.
        """

    def check_signature(self, signature: str) -> None:
        """Check the name of a signature; empty for the default one.

        Raises:
            FailedPrecondition: The protocol names no signatures.
        """

    def predict(
        self,
        target: Servable,
        inputs: Mapping[str, NDArray[Any]],
        *,
        signature: str,
        outputs: tuple[str, ...],
        max_bytes: int,
    ) -> EncodedRequest:
        """Return the request of a prediction.

        Raises:
            InvalidInput: The protocol can't say an input.
            MessageTooLarge: The request takes more than `max_bytes`.
        """

    def read_prediction(self, answer: bytes, target: Servable) -> Predicted:
        """Read the answer to a prediction.

        Raises:
            InvalidAnswer: It can't be read.
        """

    def metadata(self, target: Servable) -> Flow[ModelMetadata]:
        """Fetch the signatures of a model, and its card where the server has cards."""

    def status(self, target: Servable) -> Flow[tuple[VersionStatus, ...]]:
        """Fetch the states of a model's versions."""

    def models(self, name: str, limit: int = 0) -> Flow[tuple[ServedModel, ...]]:
        """List the models that the server has, or the one of that name.

        With a `limit`, servers that know it list so many at most, the first by name.
        """

    def reload(self, configs: ModelConfigs) -> Flow[None]:
        """Replace the list of models that the server serves."""

    def load(self, name: str, base_path: str | PathLike[str] | None) -> Flow[ServedModel]:
        """Add a model or replace it; without a base path, load again what the server has of it."""

    def unload(self, name: str) -> Flow[None]:
        """Take a model out."""

    def health(self, service: str) -> Flow[bool]:
        """Fetch whether the server, or one of its services, takes calls."""

    def not_ready(self, target: Servable | None) -> Flow[str | None]:
        """Fetch why the server or the model is not ready; None when it is."""
