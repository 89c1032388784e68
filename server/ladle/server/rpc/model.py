"""ModelService: what is known of a model's versions."""

from __future__ import annotations

from ladle.protos.serving_pb import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from ladle.server.call import Call
from ladle.server.core.errors import InvalidArgument, NotFound
from ladle.server.core.manager import Manager
from ladle.server.rpc.request import parse, require_model_spec
from ladle.server.rpc.status import bounded


class GetModelStatus:
    """Answers GetModelStatus requests; thread-safe."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def __call__(self, call: Call) -> bytes:
        """Return the GetModelStatusResponse, the highest version first."""
        request = parse(GetModelStatusRequest, call.request)
        require_model_spec(request)
        spec = request.model_spec
        if not spec.name:
            raise InvalidArgument("ModelSpec has no name specified.")
        statuses = self._manager.status(spec.name)
        if not statuses:
            raise NotFound(f"Could not find any versions of model {spec.name}")
        # A label is not looked at, as upstream doesn't: all versions are listed.
        if spec.WhichOneof("version_choice") == "version":
            wanted = spec.version.value
            statuses = [status for status in statuses if status.version == wanted]
            if not statuses:
                raise NotFound(f"Could not find version {wanted} of model {spec.name}")
        response = GetModelStatusResponse()
        for version, state, error in statuses:
            status = ModelVersionStatus(version=version, state=state.value)
            status.status.error_code = error.code.value if error else 0
            status.status.error_message = bounded(error.message) if error else ""
            response.model_version_status.append(status)
        return response.SerializeToString()
