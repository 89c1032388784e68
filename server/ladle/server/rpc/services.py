"""Every method that the server answers, by its full path."""

from __future__ import annotations

from ladle.server.call import Methods
from ladle.server.core.manager import Manager
from ladle.server.rpc.metadata import GetModelMetadata
from ladle.server.rpc.model import GetModelStatus
from ladle.server.rpc.predict import Predict
from ladle.server.rpc.status import handler

_PREDICTION = "/tensorflow.serving.PredictionService"
_MODEL = "/tensorflow.serving.ModelService"


def methods(manager: Manager, *, tensor_content: bool) -> Methods:
    """Return the handlers of all services; `tensor_content` is how Predict answers by default."""
    return {
        f"{_PREDICTION}/Predict": handler(Predict(manager, tensor_content=tensor_content)),
        f"{_PREDICTION}/GetModelMetadata": handler(GetModelMetadata(manager)),
        f"{_MODEL}/GetModelStatus": handler(GetModelStatus(manager)),
    }
