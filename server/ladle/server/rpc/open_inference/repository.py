"""The protocol's model repository: which models there are, and loading and unloading one."""

from __future__ import annotations

from collections.abc import Callable

from ladle.protos.inference_pb import (
    RepositoryIndexRequest,
    RepositoryIndexResponse,
    RepositoryModelLoadRequest,
    RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse,
)
from ladle.server.core.errors import Code, NotFound, ServingError, Unimplemented
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.states import State
from ladle.server.core.models.changes import Models
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.request import parse

_STATES = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
}
# Parameters that would bring a model's files or its configuration over the wire.
_CODE = ("config", "file:")
NO_REPOSITORIES = "'repository_name' specification is not supported"
"""The answer to callers who name a repository."""


class Repository:
    """Answers the repository's methods. Thread-safe."""

    def __init__(self, manager: Manager, models: Models) -> None:
        self._manager = manager
        self._models = models

    @property
    def methods(self) -> dict[str, Callable[[ObservedCall], bytes]]:
        """Each method by its name."""
        return {
            "RepositoryIndex": self.index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
        }

    def index(self, call: ObservedCall) -> bytes:
        """Return one entry for each version of each model, in whatever state it is.

        A model without versions has one entry, with an empty version; so has one that could be
        loaded. May block, as the catalogue of such models does.

        Raises:
            Unimplemented: The caller names a repository.
        """
        request = parse(RepositoryIndexRequest, call.request)
        if request.repository_name:
            raise Unimplemented(NO_REPOSITORIES)
        response = RepositoryIndexResponse()
        absent = self._models.absent()
        for name in sorted({*self._models.models, *self._manager.names(), *absent}):
            statuses = sorted(self._manager.status(name), key=lambda status: status.version)
            for status in statuses:
                state = _STATES[status.state]
                if request.ready and state != "READY":
                    continue
                reason = ""
                if state == "UNAVAILABLE":
                    reason = status.error.message if status.error else "unloaded"
                response.models.add(
                    name=name, version=str(status.version), state=state, reason=reason
                )
            if not statuses and not request.ready:
                is_unloaded = name in absent or self._manager.is_unloaded(name)
                reason = "unloaded" if is_unloaded else self._manager.problem(name) or ""
                response.models.add(name=name, state="UNAVAILABLE", reason=reason)
        return response.SerializeToString()

    def load(self, call: ObservedCall) -> bytes:
        """Look at a configured model again, or bring back one that was unloaded; waits for it.

        Raises:
            NotFound: No such model is configured.
            Unimplemented: The request brings files or a configuration, or names a repository.
            ServingError: No version of it came up within the deadline; the message says why.
        """
        request = parse(RepositoryModelLoadRequest, call.request)
        name = _name(request.repository_name, request.model_name)
        call.observation.model = name
        if any(key.startswith(_CODE) for key in request.parameters):
            raise Unimplemented("models and their configuration can't be sent to this server")
        try:
            if not self._models.bring_back(name):
                self._models.rescan(name)
            self._models.load(name)
        except NotFound:
            raise NotFound(
                f"failed to load '{name}', failed to poll from model repository"
            ) from None
        except ServingError as error:
            raise ServingError(f"failed to load '{name}', {error.message}", error.code) from None
        try:
            self._models.wait_for([name], call.deadline)
        except ServingError as error:
            code = Code.INTERNAL if error.code is Code.UNKNOWN else error.code
            raise ServingError(f"failed to load '{name}', {error.message}", code) from None
        return RepositoryModelLoadResponse(model_name=name, isLoaded=True).SerializeToString()

    def unload(self, call: ObservedCall) -> bytes:
        """Withdraw a model; its configuration is kept, so that it can be loaded again.

        Raises:
            NotFound: No such model is configured.
            Unimplemented: The request names a repository.
        """
        request = parse(RepositoryModelUnloadRequest, call.request)
        name = _name(request.repository_name, request.model_name)
        call.observation.model = name
        try:
            self._models.set_aside(name)
        except NotFound:
            raise NotFound(f"Request for unknown model: '{name}' is not found") from None
        return RepositoryModelUnloadResponse(model_name=name, isUnloaded=True).SerializeToString()


def _name(repository: str, model: str) -> str:
    if repository and model:
        raise Unimplemented(NO_REPOSITORIES)
    return model or repository
