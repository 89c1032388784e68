"""Call models that ladle or TensorFlow Serving serves, from numpy and without TensorFlow.

    from ladle.client import Client

    with Client("localhost:8500") as client:
        prediction = client.predict("digits", images)
        print(prediction.version, prediction.top(1))

`AsyncClient` has the same methods, to be awaited. `Client(address, protocol="v2")` calls Triton,
KServe and MLServer.
Everything here is importable from this package; the modules behind it are not a promise.
"""

from ladle.client.async_client import AsyncClient
from ladle.client.calls.retry import Hedge, Retry
from ladle.client.client import Client
from ladle.client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    FleetError,
    InvalidAnswer,
    InvalidInput,
    LadleError,
    MessageTooLarge,
    NotFound,
    Overloaded,
    PermissionDenied,
    ServerError,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from ladle.client.inputs.conversion import Normalize
from ladle.client.models import (
    ModelMetadata,
    ServedModel,
    Signature,
    TensorSpec,
    VersionState,
    VersionStatus,
)
from ladle.client.prediction import Classification, Prediction, Regression, Scored
from ladle.client.transport.connection import TLS
from ladle.protos.model_card import ModelCard, Normalization

__all__ = [
    "TLS",
    "AsyncClient",
    "Cancelled",
    "Classification",
    "Client",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FleetError",
    "Hedge",
    "InvalidAnswer",
    "InvalidInput",
    "LadleError",
    "MessageTooLarge",
    "ModelCard",
    "ModelMetadata",
    "Normalization",
    "Normalize",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Prediction",
    "Regression",
    "Retry",
    "Scored",
    "ServedModel",
    "ServerError",
    "Signature",
    "TensorSpec",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "VersionState",
    "VersionStatus",
]
