"""Every method that the server answers, by its full path."""

from __future__ import annotations

from collections.abc import Callable

from ladle.server.call import Call, Methods
from ladle.server.core.manager import Manager
from ladle.server.rpc.metadata import GetModelMetadata
from ladle.server.rpc.model import GetModelStatus
from ladle.server.rpc.predict import Predict
from ladle.server.rpc.status import handler

_PREDICTION = "/tensorflow.serving.PredictionService"
_MODEL = "/tensorflow.serving.ModelService"


def methods(manager: Manager, *, tensor_content: bool) -> Methods:
    """Return the handlers of all services; `tensor_content` is how Predict answers by default."""
    services: dict[str, Callable[[Call], bytes]] = {
        f"{_PREDICTION}/Predict": Predict(manager, tensor_content=tensor_content),
        f"{_PREDICTION}/GetModelMetadata": GetModelMetadata(manager),
        f"{_MODEL}/GetModelStatus": GetModelStatus(manager),
    }
    return {path: handler(path, method) for path, method in services.items()}
