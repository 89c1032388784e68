"""ModelService: what is known of a model's versions, and which models are served at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ladle.protos.serving_pb import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from ladle.server.core.errors import InvalidArgument, NotFound
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.lifecycle.registry import VersionStatus
from ladle.server.core.models.changes import Models
from ladle.server.core.models.config import from_proto
from ladle.server.rpc.middleware import ObservedCall
from ladle.server.rpc.request import parse, require_model_spec
from ladle.server.rpc.status import bounded


class GetModelStatus:
    """Answers GetModelStatus requests; thread-safe."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def __call__(self, call: ObservedCall) -> bytes:
        """Return the GetModelStatusResponse, the highest version first; may block for a moment."""
        request = parse(GetModelStatusRequest, call.request)
        require_model_spec(request)
        spec = request.model_spec
        call.observation.model = spec.name
        if not spec.name:
            raise InvalidArgument("ModelSpec has no name specified.")
        statuses = self._manager.look(spec.name)
        if not statuses:
            raise NotFound(f"Could not find any versions of model {spec.name}")
        # A label is not looked at, as upstream doesn't: all versions are listed.
        if spec.WhichOneof("version_choice") == "version":
            wanted = spec.version.value
            statuses = [status for status in statuses if status.version == wanted]
            if not statuses:
                raise NotFound(f"Could not find version {wanted} of model {spec.name}")
        response = GetModelStatusResponse()
        response.model_version_status.extend(map(status_proto, statuses))
        return response.SerializeToString()


class HandleReloadConfigRequest:
    """Replaces all the models that are served; thread-safe.

    Answers once each model that is new has a version available, or else within the caller's
    deadline, with which have not and why; and by how much each of the counters in `metric_names`
    has grown meanwhile, over all its labels. What is no counter is left out.
    """

    def __init__(
        self, models: Models, counters: Callable[[], Mapping[str, int]] | None = None
    ) -> None:
        """`counters` returns the counters' values, by the names that Prometheus has for them."""
        self._models = models
        self._counters = counters or dict

    def __call__(self, call: ObservedCall) -> bytes:
        """Return the ReloadConfigResponse; whatever is not OK is the call's own status."""
        request = parse(ReloadConfigRequest, call.request)
        before = self._counters() if request.metric_names else {}
        new = self._models.replace(from_proto(request.config))
        self._models.wait_for(new, call.deadline)
        response = ReloadConfigResponse()
        response.status.error_code = 0
        now = self._counters() if request.metric_names else {}
        for name in dict.fromkeys(request.metric_names):
            counter = _counter_name(name)
            if counter in now:
                increase = now[counter] - before.get(counter, 0)
                response.metric.add(name=name, int64_value_increase=increase)
        return response.SerializeToString()


def _counter_name(name: str) -> str:
    """Return Prometheus's name of a metric; scripts ask by TensorFlow's, which has slashes."""
    return re.sub("[^A-Za-z0-9_]", ":", name)


def status_proto(status: VersionStatus) -> ModelVersionStatus:
    """Return a version's status as ModelService tells it."""
    version, state, error = status
    proto = ModelVersionStatus(version=version, state=state.value)
    proto.status.error_code = error.code.value if error else 0
    proto.status.error_message = bounded(error.message) if error else ""
    return proto
