"""The protocol's questions about the server and its models: liveness, readiness and metadata."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from ladle.protos.datatypes import BY_NUMBER
from ladle.protos.inference_pb import (
    ModelMetadataRequest,
    ModelMetadataResponse,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerMetadataResponse,
    ServerReadyRequest,
    ServerReadyResponse,
)
from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.serving_map import Handle
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.open_inference import names
from ladle.server.rpc.request import parse

NAME = "ladle"
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "schedule_policy",
)
"""The parts of the protocol's extensions that are served."""

PLATFORM = "tensorflow_savedmodel"
"""What each model is, in the protocol's terms."""


class ServerMethods:
    """Answers what is asked about the server and its models. Thread-safe.

    Nothing here waits, but for a model that is loaded on demand.
    """

    def __init__(self, manager: Manager, is_ready: Callable[[], bool]) -> None:
        """`is_ready`: whether the server as a whole serves, as its health says."""
        self._manager = manager
        self._is_ready = is_ready

    @property
    def probes(self) -> dict[str, Callable[[ObservedCall], bytes]]:
        """Each method that asks how things are, by its name; like health, these are not counted."""
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
        }

    @property
    def methods(self) -> dict[str, Callable[[ObservedCall], bytes]]:
        """Each of the other methods by its name."""
        return {
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
        }

    def server_live(self, call: ObservedCall) -> bytes:
        """Return that the process answers."""
        parse(ServerLiveRequest, call.request)
        return ServerLiveResponse(live=True).SerializeToString()

    def server_ready(self, call: ObservedCall) -> bytes:
        """Return whether the server as a whole serves."""
        parse(ServerReadyRequest, call.request)
        return ServerReadyResponse(ready=self._is_ready()).SerializeToString()

    def model_ready(self, call: ObservedCall) -> bytes:
        """Return whether a model or a version of it can be had now.

        Raises:
            NotFound: There is no such model or version.
        """
        request = parse(ModelReadyRequest, call.request)
        name, spec = names.parse_known(request.name, request.version, self._manager)
        call.observation.model = name.model
        statuses = self._manager.look(name.model)
        wanted = spec.version.value if spec.HasField("version") else None
        if wanted is not None and wanted not in {status.version for status in statuses}:
            raise names.missing(name, spec, self._manager)
        # One that is loaded when it is asked for answers who asks.
        ready = self._manager.is_unloaded(name.model) or self._manager.is_available(
            name.model, wanted
        )
        return ModelReadyResponse(ready=ready).SerializeToString()

    def server_metadata(self, call: ObservedCall) -> bytes:
        """Return the server's name and version, and the extensions that it has."""
        parse(ServerMetadataRequest, call.request)
        response = ServerMetadataResponse(
            name=NAME, version=_version(), extensions=list(EXTENSIONS)
        )
        return response.SerializeToString()

    def model_metadata(self, call: ObservedCall) -> bytes:
        """Return the tensors of a signature, and the versions that can be had.

        Raises:
            NotFound: There is no such model, or no version of it can be had.
            Unavailable: The version that is asked for is not loaded.
            InvalidArgument: There is no such signature.
        """
        request = parse(ModelMetadataRequest, call.request)
        name, spec = names.parse_known(request.name, request.version, self._manager)
        call.observation.model = name.model
        with names.acquire(self._manager, name, spec, call) as handle:
            call.observation.served_by(handle.id)
            return self._metadata(handle, name, spec).SerializeToString()

    def _metadata(
        self, handle: Handle, name: names.Name, asked: ModelSpec
    ) -> ModelMetadataResponse:
        signature = names.find_signature(handle.servable, name.signature)
        if asked.HasField("version"):
            versions = [asked.version.value]
        else:
            available = self._manager.available()
            versions = sorted(e.id.version for e in available if e.id.name == name.model)
        response = ModelMetadataResponse(
            name=name.given, versions=map(str, versions), platform=PLATFORM
        )
        for specs, tensors in (
            (signature.inputs, response.inputs),
            (signature.outputs, response.outputs),
        ):
            for alias, spec in specs.items():
                if spec.data_type in BY_NUMBER and not spec.unanswerable:
                    shape = (-1,) if spec.shape is None else spec.shape
                    datatype = BY_NUMBER[spec.data_type].name
                    tensors.add(name=alias, datatype=datatype, shape=shape)
        return response


def _version() -> str:
    try:
        return version("ladle")
    except PackageNotFoundError:
        return "0"
