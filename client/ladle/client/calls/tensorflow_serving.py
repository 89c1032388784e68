"""TensorFlow Serving's protocol, with the methods that ladle's server adds; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from os import PathLike
from typing import Any

from numpy.typing import NDArray

from ladle.client.calls.effects import Flow
from ladle.client.errors import InvalidInput, LadleError, NotFound, Unimplemented
from ladle.client.messages import requests, responses
from ladle.client.messages.requests import EncodedRequest, ModelConfigs, Servable
from ladle.client.messages.streams import PREDICT_STREAM_MESSAGES, StreamMessages
from ladle.client.models import ModelMetadata, ServedModel, VersionState, VersionStatus
from ladle.protos.model_card import CARD_METADATA_FIELD

_BOTH_FIELDS = (responses.SIGNATURES_METADATA_FIELD, CARD_METADATA_FIELD)


class TensorFlowServing:
    """See `Protocol`."""

    methods: tuple[str, ...] = requests.METHODS
    streams: StreamMessages = PREDICT_STREAM_MESSAGES
    has_chunks = True
    other = 'a server of Triton, KServe or MLServer takes a client with protocol="v2"'
    always_has_metadata = True

    def check_examples(self, what: str) -> None:
        """Accept requests of tf.Examples."""

    def check_signature(self, signature: str) -> None:
        """Accept any name: the server knows them."""

    def predict(
        self,
        target: Servable,
        inputs: Mapping[str, NDArray[Any]],
        *,
        signature: str,
        outputs: tuple[str, ...],
        max_bytes: int,
    ) -> EncodedRequest:
        """Return a Predict request; raises as `requests.predict`."""
        return requests.predict(
            target, inputs, signature=signature, outputs=outputs, max_bytes=max_bytes
        )

    def read_prediction(self, answer: bytes, target: Servable) -> responses.Predicted:
        """Read the answer to a Predict call; raises as `responses.predict`."""
        return responses.predict(answer, target)

    def metadata(self, target: Servable) -> Flow[ModelMetadata]:
        """Fetch signatures, and the card where the server has cards."""
        try:
            answer = yield requests.metadata(target, _BOTH_FIELDS)
        except InvalidInput:
            # TensorFlow Serving refuses a metadata field that it doesn't know. If it refused
            # something else, such as the label, it refuses the second request too.
            answer = yield requests.metadata(target, (responses.SIGNATURES_METADATA_FIELD,))
        return responses.metadata(answer, target)

    def status(self, target: Servable) -> Flow[tuple[VersionStatus, ...]]:
        """Fetch the states of a model's versions."""
        answer = yield requests.status(target)
        return responses.status(answer, target)

    def models(self, name: str, limit: int = 0) -> Flow[tuple[ServedModel, ...]]:
        """List the models that the server is configured to serve; ladle servers only."""
        try:
            answer = yield requests.models(name, limit)
        except Unimplemented as error:
            raise Unimplemented(
                "this server doesn't list its models, as TensorFlow Serving doesn't; "
                f"status(model) works for one model ({error})",
                details=error.details,
            ) from error
        return responses.models(answer)

    def reload(self, configs: ModelConfigs) -> Flow[None]:
        """Replace the list of models that the server serves."""
        answer = yield requests.reload(configs)
        responses.reload(answer)

    def load(self, name: str, base_path: str | PathLike[str] | None) -> Flow[ServedModel]:
        """Add a model or replace it; without a base path, look again at the one that it has."""
        if base_path is None:
            answer = yield requests.rescan(name)
        else:
            answer = yield requests.load(name, base_path)
        return responses.model(answer, "RescanModel" if base_path is None else "LoadModel")

    def unload(self, name: str) -> Flow[None]:
        """Take a model out."""
        answer = yield requests.unload(name)
        responses.unload(answer)

    def health(self, service: str) -> Flow[bool]:
        """Check the health of a service."""
        answer = yield requests.health(service)
        return responses.health(answer)

    def not_ready(self, target: Servable | None) -> Flow[str | None]:
        """Fetch why the server or the model is not ready; None when it is.

        A server without health checks, such as TensorFlow Serving, is ready once it answers. A
        model that is loaded when a request asks for it is ready.
        """
        if target is None:
            try:
                is_healthy = yield from self.health("")
            except (Unimplemented, NotFound):
                return None
            return None if is_healthy else "the server says that it takes no calls"
        versions = yield from self.status(Servable(target.model, target.version))
        if any(version.state is VersionState.AVAILABLE for version in versions):
            return None
        if any(version.state is VersionState.START for version in versions):
            with suppress(LadleError):  # none of ladle's servers, which loads all its models
                served = yield from self.models(target.model)
                if any(model.is_unloaded for model in served):
                    return None
        states = ", ".join(f"version {v.version} is {v.state.name}" for v in versions)
        failures = "".join(f"; {v.error_message}" for v in versions if v.error_message)
        return f"{target}: {states or 'it has no version'}{failures}"


TENSORFLOW_SERVING = TensorFlowServing()
