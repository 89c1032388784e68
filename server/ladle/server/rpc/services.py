"""Every method that the server answers, by its full path."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ladle.server.call import Handler, Methods, NonBlocking, Streaming
from ladle.server.core.access import Access
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.models.model_set import ModelSet
from ladle.server.core.observation import Observer, Unobserved
from ladle.server.rpc.chunks import predict_in_chunks
from ladle.server.rpc.classify import classify
from ladle.server.rpc.guard import guarded
from ladle.server.rpc.health import Health
from ladle.server.rpc.metadata import GetModelMetadata
from ladle.server.rpc.model import GetModelStatus, HandleReloadConfigRequest
from ladle.server.rpc.multi_inference import multi_inference
from ladle.server.rpc.observed import ObservedCall
from ladle.server.rpc.predict import Predict
from ladle.server.rpc.profiler import ProfilerService, Recorder
from ladle.server.rpc.reflection import reflection
from ladle.server.rpc.regress import regress
from ladle.server.rpc.repository import ModelRepository
from ladle.server.rpc.status import Middleware, NonBlockingMethod
from ladle.server.rpc.streaming import predict_stream

_PREDICTION = "/tensorflow.serving.PredictionService"
_MODEL = "/tensorflow.serving.ModelService"
_STREAMING = "/ladle.v1.StreamingPrediction"
_REPOSITORY = "/ladle.v1.ModelRepository"
_PROFILER = "/tensorflow.ProfilerService"


def methods(
    manager: Manager,
    models: ModelSet | None = None,
    *,
    tensor_content: bool,
    check_method_names: bool = False,
    access: Access | None = None,
    observer: Observer | None = None,
    counters: Callable[[], Mapping[str, int]] | None = None,
    recorder: Recorder | None = None,
    health: Health | None = None,
) -> Methods:
    """Return the handlers of all services.

    Args:
        manager: where the models are.
        models: what is configured; without it nothing can be reloaded.
        tensor_content: whether Predict answers in `tensor_content` unless asked otherwise.
        check_method_names: whether a signature has to be of the kind that the method is for.
        access: who may call what; by default what Access says without tokens.
        observer: hears of each request.
        counters: returns the values of metrics, for those who reload and ask for them.
        recorder: records what the runtime does; without it there is no ProfilerService.
        health: answers for the names that it was told of; by default nothing serves.
    """
    middleware = Middleware(observer or Unobserved())
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
    predict = Predict(manager, tensor_content=tensor_content, check_method_names=check_method_names)
    non_blocking: dict[str, NonBlockingMethod] = {
        f"{_PREDICTION}/GetModelMetadata": GetModelMetadata(manager),
        f"{_PREDICTION}/Predict": predict,
        f"{_PREDICTION}/Classify": classify(manager, check_method_names=check_method_names),
        f"{_PREDICTION}/Regress": regress(manager, check_method_names=check_method_names),
        f"{_PREDICTION}/MultiInference": multi_inference(
            manager, check_method_names=check_method_names
        ),
    }
    served: dict[str, Handler | NonBlocking | Streaming] = {
        **{path: middleware.non_blocking(path, method) for path, method in non_blocking.items()},
        f"{_STREAMING}/PredictStream": predict_stream(predict, observer=middleware.observer),
        f"{_STREAMING}/PredictInChunks": predict_in_chunks(predict, middleware.observer),
        **{path: middleware.handler(path, method) for path, method in services.items()},
        **(health or Health()).methods,
    }
    served |= reflection({path.split("/")[1] for path in served})
    return guarded(served, access or Access(), middleware.observer)
