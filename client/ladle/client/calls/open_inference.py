"""The Open Inference Protocol ("V2"), as Triton, KServe, MLServer and ladle speak it; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from numpy.typing import NDArray

from ladle.client.calls.effects import Flow
from ladle.client.errors import FailedPrecondition, NotFound, Unimplemented
from ladle.client.messages.open_inference import requests, responses
from ladle.client.messages.open_inference.streams import MODEL_STREAM_INFER_MESSAGES
from ladle.client.messages.requests import EncodedRequest, ModelConfigs, Servable, servable
from ladle.client.messages.responses import Predicted
from ladle.client.messages.streams import StreamMessages
from ladle.client.models import DEFAULT_SIGNATURE, ModelMetadata, ServedModel, VersionStatus

_LACKS = "the Open Inference Protocol has no"


class OpenInference:
    """See `Protocol`."""

    methods: tuple[str, ...] = requests.METHODS
    streams: StreamMessages = MODEL_STREAM_INFER_MESSAGES
    has_chunks = False
    other = 'TensorFlow Serving takes a client without protocol="v2"'
    always_has_metadata = False

    def check_examples(self, what: str) -> None:
        """Refuse requests of tf.Examples.

        Raises:
            Unimplemented: Always.
        """
        raise Unimplemented(
            f"{what}: {_LACKS} tf.Examples; predict() takes the model's inputs, and its result's "
            "top() gives the classes"
        )

    def check_signature(self, signature: str) -> None:
        """Refuse any name but that of the only signature.

        Raises:
            FailedPrecondition: It is another name.
        """
        if signature not in ("", DEFAULT_SIGNATURE):
            raise FailedPrecondition(
                f'signature "{signature}": {_LACKS} signatures; a ladle server takes '
                f'"MODEL:{signature}" as the name of the model'
            )

    def predict(
        self,
        target: Servable,
        inputs: Mapping[str, NDArray[Any]],
        *,
        signature: str,
        outputs: tuple[str, ...],
        max_bytes: int,
    ) -> EncodedRequest:
        """Return a ModelInfer request; raises as `requests.infer`, and as `check_signature`."""
        self.check_signature(signature)
        return requests.infer(target, inputs, outputs=outputs, max_bytes=max_bytes)

    def read_prediction(self, answer: bytes, target: Servable) -> Predicted:
        """Read the answer to a ModelInfer call; raises as `responses.infer`."""
        return responses.infer(answer, target)

    def metadata(self, target: Servable) -> Flow[ModelMetadata]:
        """Fetch a model's inputs and outputs, as its only signature."""
        answer = yield requests.metadata(target)
        return responses.metadata(answer, target)

    def status(self, target: Servable) -> Flow[tuple[VersionStatus, ...]]:
        """Fetch the states of a model's versions from the index of the repository.

        Raises:
            NotFound: The index has no such model or version.
        """
        for model in (yield from self.models(target.model)):
            versions = tuple(
                version for version in model.versions if target.version in (None, version.version)
            )
            if versions or target.version is None:
                return versions
        raise NotFound(f"{target}: the index of the server's repository doesn't have it")

    def models(self, name: str, limit: int = 0) -> Flow[tuple[ServedModel, ...]]:
        """List the models of the server's repository, or the one of that name."""
        answer = yield requests.index()
        listed = responses.index(answer)
        return tuple(model for model in listed if name in ("", model.name))

    def reload(self, configs: ModelConfigs) -> Flow[None]:
        """Refuse: a server's models are those of its repository.

        Raises:
            Unimplemented: Always.
        """
        raise Unimplemented(
            f"reload(): {_LACKS} list of models to replace; load() and unload() change one"
        )

    def load(self, name: str, base_path: str | PathLike[str] | None) -> Flow[ServedModel]:
        """Load a model of the server's repository.

        Raises:
            Unimplemented: There is a base path.
        """
        if base_path is not None:
            raise Unimplemented(
                f"load(): {_LACKS} base paths; a server loads the model of that name from its "
                "repository, so leave base_path out"
            )
        answer = yield requests.load(servable(name).model)
        responses.loaded(answer)
        for model in (yield from self.models(name)):
            return model
        raise NotFound(f"model \"{name}\": loaded, and the server's index doesn't have it")

    def unload(self, name: str) -> Flow[None]:
        """Take a model out; it can be loaded again."""
        answer = yield requests.unload(servable(name).model)
        responses.unloaded(answer)

    def health(self, service: str) -> Flow[bool]:
        """Fetch whether the server is ready, or the model that `service` names."""
        if service:
            target = Servable(service)
            answer = yield requests.model_ready(target)
            return responses.model_ready(answer, target)
        answer = yield requests.server_ready()
        return responses.server_ready(answer)

    def not_ready(self, target: Servable | None) -> Flow[str | None]:
        """Fetch why the server or the model is not ready; None when it is."""
        if target is None:
            is_ready = yield from self.health("")
            return None if is_ready else "the server says that it takes no calls"
        answer = yield requests.model_ready(target)
        is_ready = responses.model_ready(answer, target)
        return None if is_ready else f"{target}: the server says that it is not ready"


OPEN_INFERENCE = OpenInference()
