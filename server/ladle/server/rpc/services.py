"""Every method that the server answers, by its full path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ladle.protos import services as described
from ladle.server.call import Handler, Methods, NonBlocking, Streaming
from ladle.server.core.access import Access
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.models.changes import Models
from ladle.server.core.observation import Observer, Unobserved
from ladle.server.core.rollout.shadow_runs import ShadowRuns
from ladle.server.core.statistics import Statistics
from ladle.server.rpc.guard import RULES, guarded, inference_rules
from ladle.server.rpc.health import Health
from ladle.server.rpc.inference.classify import classify
from ladle.server.rpc.inference.multi_inference import MultiInference
from ladle.server.rpc.inference.regress import regress
from ladle.server.rpc.middleware import Middleware, NonBlockingMethod, ObservedCall
from ladle.server.rpc.models.metadata import GetModelMetadata
from ladle.server.rpc.models.model_service import GetModelStatus, HandleReloadConfigRequest
from ladle.server.rpc.models.repository import ModelRepository
from ladle.server.rpc.open_inference.names import model_of
from ladle.server.rpc.open_inference.service import open_inference_service
from ladle.server.rpc.prediction.alike import predict_alike
from ladle.server.rpc.prediction.chunks import predict_in_chunks
from ladle.server.rpc.prediction.predict import Predict
from ladle.server.rpc.prediction.stream import predict_stream
from ladle.server.rpc.profiler import ProfilerService, Recorder
from ladle.server.rpc.queued import InferMethod, QueuedMethod
from ladle.server.rpc.reflection import reflection

_PREDICTION = "/tensorflow.serving.PredictionService"
_MODEL = "/tensorflow.serving.ModelService"
_STREAMING = "/ladle.v1.StreamingPrediction"
_REPOSITORY = "/ladle.v1.ModelRepository"
_PROFILER = "/tensorflow.ProfilerService"


def methods(
    manager: Manager,
    models: Models | None = None,
    *,
    tensor_content: bool,
    check_method_names: bool = False,
    access: Access | None = None,
    observer: Observer | None = None,
    counters: Callable[[], Mapping[str, int]] | None = None,
    recorder: Recorder | None = None,
    health: Health | None = None,
    open_inference: bool = True,
    statistics: Statistics | None = None,
    shadows: ShadowRuns | None = None,
) -> Methods:
    """Return the handlers of all services.

    Args:
        manager: where the models are.
        models: what is configured; without it nothing can be reloaded.
        tensor_content: whether Predict answers in `tensor_content` unless asked otherwise.
        check_method_names: whether a signature has to be of the kind that the method is for.
        access: who may call what; by default what Access says without tokens.
        observer: hears of each request.
        counters: returns the values of metrics; a reload can ask for them.
        recorder: records what the runtime does; without it there is no ProfilerService.
        health: the health service; by default nothing serves.
        open_inference: whether the Open Inference Protocol is served beside the others.
        statistics: returns what requests to each version have taken.
        shadows: run some of the unary requests on another version too.

    Raises:
        KeyError: A method is in none of our .proto files, or has no rule for its callers.
    """
    middleware = Middleware(observer or Unobserved())
    health = health or Health()
    services: dict[str, Callable[[ObservedCall], bytes]] = {
        f"{_MODEL}/GetModelStatus": GetModelStatus(manager),
    }
    if models is not None:
        services[f"{_MODEL}/HandleReloadConfigRequest"] = HandleReloadConfigRequest(
            models, counters
        )
        repository = ModelRepository(manager, models)
        services |= {f"{_REPOSITORY}/{name}": m for name, m in repository.methods.items()}
    if recorder is not None:
        profiler = ProfilerService(recorder)
        services |= {f"{_PROFILER}/{name}": m for name, m in profiler.methods.items()}
    predict = Predict(tensor_content=tensor_content, check_method_names=check_method_names)
    infer_methods: list[InferMethod[Any, bytes]] = [
        predict,
        classify(check_method_names=check_method_names),
        regress(check_method_names=check_method_names),
        MultiInference(check_method_names=check_method_names),
    ]
    non_blocking: dict[str, NonBlockingMethod] = {
        f"{_PREDICTION}/GetModelMetadata": GetModelMetadata(manager),
        **{method.path: QueuedMethod(manager, method, shadows) for method in infer_methods},
    }
    alike = {predict.path: predict_alike(manager, predict, middleware.observer, shadows)}
    served: dict[str, Handler | NonBlocking | Streaming] = {
        **{
            path: middleware.non_blocking(path, method, alike.get(path))
            for path, method in non_blocking.items()
        },
        f"{_STREAMING}/PredictStream": predict_stream(
            manager, predict, observer=middleware.observer
        ),
        f"{_STREAMING}/PredictInChunks": predict_in_chunks(manager, predict, middleware.observer),
        **{path: middleware.handler(path, method) for path, method in services.items()},
        **health.methods,
    }
    if open_inference:
        served |= open_inference_service(
            manager,
            models,
            middleware,
            is_ready=partial(health.serves, ""),
            statistics=statistics or dict,
            shadows=shadows,
        )
    reflected = reflection({path.split("/")[1] for path in served})
    served |= reflected
    for path in served.keys() - reflected.keys():
        described.methods()[path]  # a path that is in no .proto can be called by nobody
    rules = RULES | inference_rules(partial(model_of, manager))
    return guarded(served, access or Access(), middleware.observer, rules)
