"""ladle.v1.ModelRepository: lists the models, and changes one without touching the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ladle.protos.ladle_pb import (
    ListModelsRequest,
    ListModelsResponse,
    LoadModelRequest,
    LoadModelResponse,
    Model,
    ModelVersion,
    RescanModelRequest,
    RescanModelResponse,
    UnloadModelRequest,
    UnloadModelResponse,
)
from ladle.server.core.errors import InvalidArgument, NotFound
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.states import State
from ladle.server.core.models.changes import Models
from ladle.server.core.models.config import ModelConfig, model_from_proto, to_proto
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.models.model_service import status_proto
from ladle.server.rpc.request import parse
from ladle.server.rpc.status import bounded


class ModelRepository:
    """Answers the methods of ladle.v1.ModelRepository; thread-safe."""

    def __init__(self, manager: Manager, models: Models) -> None:
        self._manager = manager
        self._models = models

    @property
    def methods(self) -> Mapping[str, Callable[[ObservedCall], bytes]]:
        """The methods, by name."""
        return {
            "ListModels": self.list_models,
            "LoadModel": self.load_model,
            "UnloadModel": self.unload_model,
            "RescanModel": self.rescan_model,
        }

    def list_models(self, call: ObservedCall) -> bytes:
        """Return the ListModelsResponse; may block for a moment."""
        request = parse(ListModelsRequest, call.request)
        if request.limit < 0:
            raise InvalidArgument(f"limit: expected 0 or more, got {request.limit}")
        models = self._models.models
        if request.name:
            names = [request.name] if request.name in models else []
        else:
            names = sorted(name for name in models if name > request.after)
        if request.limit:
            names = names[: request.limit]
        look = bool(request.name)
        response = ListModelsResponse(
            model=[self._describe(models[name], look=look) for name in names]
        )
        return response.SerializeToString()

    def load_model(self, call: ObservedCall) -> bytes:
        """Put a model in place and wait for it; return the LoadModelResponse."""
        request = parse(LoadModelRequest, call.request)
        if not request.HasField("config"):
            raise InvalidArgument("expected a config, got none")
        model = model_from_proto(request.config)
        self._models.add(model)
        self._models.load(model.name)
        self._models.wait_for([model.name], call.deadline)
        return LoadModelResponse(model=self._describe(model)).SerializeToString()

    def unload_model(self, call: ObservedCall) -> bytes:
        """Take a model out; return the UnloadModelResponse."""
        self._models.remove(parse(UnloadModelRequest, call.request).name)
        return UnloadModelResponse().SerializeToString()

    def rescan_model(self, call: ObservedCall) -> bytes:
        """Look at a model's base path; return the RescanModelResponse."""
        name = parse(RescanModelRequest, call.request).name
        self._models.rescan(name)
        model = self._models.models.get(name)
        if model is None:
            raise NotFound(f"model {name} is not configured")
        return RescanModelResponse(model=self._describe(model)).SerializeToString()

    def _describe(self, model: ModelConfig, *, look: bool = True) -> Model:
        """Return what is known of a model; `look` for the versions of one that is not loaded."""
        if not look and self._manager.is_unloaded(model.name):
            return Model(config=to_proto(model), unloaded=True)
        described = Model(
            config=to_proto(model),
            available=self._manager.is_available(model.name),
            problem=bounded(self._manager.problem(model.name) or ""),
            unloaded=self._manager.is_unloaded(model.name),
        )
        described.config.version_labels.update(self._manager.labels(model.name))
        for status in self._manager.look(model.name):
            version = ModelVersion(status=status_proto(status))
            if status.state is State.AVAILABLE:
                for name, definition in self._signature_defs(model.name, status.version).items():
                    version.signature[name].MergeFromString(definition)
            described.version.append(version)
        return described

    def _signature_defs(self, name: str, version: int) -> Mapping[str, bytes]:
        try:
            with self._manager.acquire(name, version, is_use=False) as handle:
                return handle.servable.signature_defs
        except NotFound:  # it went out of service just now
            return {}
