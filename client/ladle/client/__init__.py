"""Call models that ladle or TensorFlow Serving serves, from numpy and without TensorFlow.

    from ladle.client import Client

    with Client("localhost:8500") as client:
        prediction = client.predict("digits", images)
        print(prediction.version, prediction.top(1))

Everything here is importable from this package; the modules behind it are not a promise.
"""

from ladle.client.client import Client
from ladle.client.errors import (
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
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
from ladle.client.inputs import Normalize
from ladle.client.models import ModelMetadata, Signature, TensorSpec, VersionState, VersionStatus
from ladle.client.prediction import Prediction, Scored
from ladle.protos.model_card import ModelCard, Normalization

__all__ = [
    "Cancelled",
    "Client",
    "DeadlineExceeded",
    "FailedPrecondition",
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
    "Scored",
    "ServerError",
    "Signature",
    "TensorSpec",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "VersionState",
    "VersionStatus",
]
