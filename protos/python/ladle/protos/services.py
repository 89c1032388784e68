"""What can be called: every RPC method in protos/, described without grpc."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ladle.protos._pool import FILES, POOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One RPC method: where to send it, and what goes in and out."""

    service: str
    """Full name of the service, such as `tensorflow.serving.PredictionService`."""
    name: str
    """Name within the service, such as `Predict`."""
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool

    @property
    def path(self) -> str:
        """What HTTP/2 calls it, such as `/tensorflow.serving.PredictionService/Predict`."""
        return f"/{self.service}/{self.name}"


@cache
def methods() -> Mapping[str, Method]:
    """Return every method by its path: TensorFlow Serving's services, and the health check."""
    every = (
        _method(method)
        for file in FILES
        for service in file.services_by_name.values()
        for method in service.methods
    )
    return MappingProxyType({method.path: method for method in every})


def pool() -> DescriptorPool:
    """Return the pool that holds all our messages.

    Reflection serves from it, and `text_format` and `json_format` need it (`descriptor_pool=`) to
    read an `Any` with one of our messages inside.
    """
    return POOL


def _method(method: MethodDescriptor) -> Method:
    return Method(
        service=method.containing_service.full_name,
        name=method.name,
        request=GetMessageClass(method.input_type),
        response=GetMessageClass(method.output_type),
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
    )
