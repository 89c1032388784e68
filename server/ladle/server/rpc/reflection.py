"""gRPC reflection: tools such as grpcurl ask which methods there are, and for their messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2 as pb

from ladle.protos.services import pool
from ladle.server.call import Methods, Stream, Streaming
from ladle.server.core.errors import Code, InvalidArgument

# Both versions have the same messages on the wire. Tools ask for v1 first, and fall back.
_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


def reflection(services: Iterable[str]) -> Methods:
    """Return the handlers of both versions; `services`: full names, each known to our protos."""
    names = sorted(services)
    streaming = Streaming(lambda stream: _Conversation(stream, names).begin())
    return {f"/{service}/ServerReflectionInfo": streaming for service in _SERVICES}


class _Conversation:
    """One stream: each request is answered before the next one is read."""

    def __init__(self, stream: Stream, services: list[str]) -> None:
        self._stream = stream
        self._services = services

    def begin(self) -> None:
        self._stream.on_stop(self._stream.end)
        self._stream.receive(self._received)

    def _received(self, message: bytes | None) -> None:
        if message is None:
            self._stream.end()
        else:
            self._stream.in_thread(lambda: self._answer(message))

    def _answer(self, message: bytes) -> None:
        try:
            request = pb.ServerReflectionRequest.FromString(message)
        except DecodeError:
            self._stream.end(
                InvalidArgument("expected a ServerReflectionRequest, and it can't be read")
            )
            return
        answer = respond(request, self._services).SerializeToString()
        self._stream.send(answer, lambda: self._stream.receive(self._received))


def respond(request: Any, services: Iterable[str]) -> Any:
    """Return the ServerReflectionResponse to a ServerReflectionRequest."""
    response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
    kind = request.WhichOneof("message_request")
    try:
        if kind == "list_services":
            response.list_services_response.service.extend(
                pb.ServiceResponse(name=name) for name in services
            )
        elif kind == "all_extension_numbers_of_type":
            message_type = pool().FindMessageTypeByName(request.all_extension_numbers_of_type)
            response.all_extension_numbers_response.base_type_name = message_type.full_name
            response.all_extension_numbers_response.extension_number.extend(
                extension.number for extension in pool().FindAllExtensions(message_type)
            )
        elif kind is None:
            response.error_response.error_code = Code.INVALID_ARGUMENT
            response.error_response.error_message = "the request asks for nothing"
        else:
            response.file_descriptor_response.file_descriptor_proto.extend(
                _with_imports(_find_file(request, kind))
            )
    except KeyError:
        response.error_response.error_code = Code.NOT_FOUND
        response.error_response.error_message = "the server knows nothing of that name"
    return response


def _find_file(request: Any, kind: str) -> FileDescriptor:
    """Return the file that is asked for; KeyError where there is none."""
    if kind == "file_by_filename":
        return pool().FindFileByName(request.file_by_filename)
    if kind == "file_containing_symbol":
        return _file_with(request.file_containing_symbol)
    wanted = request.file_containing_extension
    message_type = pool().FindMessageTypeByName(wanted.containing_type)
    extension: Any = pool().FindExtensionByNumber(message_type, wanted.extension_number)
    file: FileDescriptor = extension.file
    return file


def _file_with(symbol: str) -> FileDescriptor:
    try:
        return pool().FindFileContainingSymbol(symbol)
    except KeyError:  # protobuf looks for all kinds of names there, but for methods
        method: Any = pool().FindMethodByName(symbol)
        file: FileDescriptor = method.containing_service.file
        return file


def _with_imports(file: FileDescriptor) -> list[bytes]:
    """Return a file's serialized descriptor, and after it those of all that it imports."""
    found: dict[str, FileDescriptor] = {}
    waiting = [file]
    while waiting:
        one = waiting.pop()
        if one.name not in found:
            found[one.name] = one
            waiting.extend(one.dependencies)
    return [one.serialized_pb for one in found.values()]
