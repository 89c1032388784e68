"""The Open Inference Protocol's methods, by their full paths."""

from __future__ import annotations

from collections.abc import Callable

from ladle.server.call import Handler, NonBlocking, Streaming
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.models.changes import Models
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.statistics import Statistics
from ladle.server.rpc.middleware import Middleware, ObservedCall
from ladle.server.rpc.open_inference.alike import infer_alike
from ladle.server.rpc.open_inference.configuration import ModelConfigMethod
from ladle.server.rpc.open_inference.infer import PATH as MODEL_INFER
from ladle.server.rpc.open_inference.infer import ModelInfer, ModelInferMethod
from ladle.server.rpc.open_inference.refused import refusing
from ladle.server.rpc.open_inference.repository import Repository
from ladle.server.rpc.open_inference.server_methods import ServerMethods
from ladle.server.rpc.open_inference.statistics import ModelStatisticsMethod
from ladle.server.rpc.open_inference.stream import PATH as MODEL_STREAM_INFER
from ladle.server.rpc.open_inference.stream import model_stream_infer

SERVICE = "inference.GRPCInferenceService"
"""The service's full name."""

# The same methods, under the name that MLServer's clients know.
_ALIAS = "inference.model_repository.ModelRepositoryService"


def open_inference_service(
    manager: Manager,
    models: Models | None,
    middleware: Middleware,
    *,
    is_ready: Callable[[], bool],
    statistics: Statistics,
    shadows: ShadowRuns | None = None,
) -> dict[str, Handler | NonBlocking | Streaming]:
    """Return the handlers.

    Args:
        manager: where the models are.
        models: what is configured; without it there is no model repository.
        middleware: makes handlers of methods.
        is_ready: whether the server as a whole serves.
        statistics: returns what requests to each version have taken.
        shadows: run some of the unary requests on another version too.
    """
    server = ServerMethods(manager, is_ready)
    unobserved = Middleware()
    configured = dict if models is None else lambda: models.models
    infer = ModelInfer(manager)
    methods: dict[str, Callable[[ObservedCall], bytes]] = {
        **server.methods,
        "ModelConfig": ModelConfigMethod(manager, configured),
        "ModelStatistics": ModelStatisticsMethod(manager, statistics),
        **refusing(),
    }
    served: dict[str, Handler | NonBlocking | Streaming] = {
        MODEL_INFER: middleware.non_blocking(
            MODEL_INFER,
            ModelInferMethod(infer, manager, shadows),
            infer_alike(manager, infer, middleware.observer, shadows),
        ),
        MODEL_STREAM_INFER: model_stream_infer(manager, infer, middleware.observer),
    }
    for name, method in methods.items():
        served[f"/{SERVICE}/{name}"] = middleware.handler(f"/{SERVICE}/{name}", method)
    for name, method in server.probes.items():
        served[f"/{SERVICE}/{name}"] = unobserved.handler(f"/{SERVICE}/{name}", method)
    if models is not None:
        for name, method in Repository(manager, models).methods.items():
            for service in (SERVICE, _ALIAS):
                path = f"/{service}/{name}"
                served[path] = middleware.handler(path, method)
    return served
