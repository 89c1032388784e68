"""Uses ladle's messages and tensorflow-serving-api's in one process; fails where they differ.

Usage, by the conformance environment's Python, in the folder tests:
python -m conformance.one_process ladle|upstream
Whichever is named is imported first.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

import conformance.without_tensorflow  # noqa: F401 - before the stubs

# isort: split
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_DEPTH = 3
_STRING_TYPES = {FieldDescriptor.TYPE_STRING: "text", FieldDescriptor.TYPE_BYTES: b"\x00bytes"}


def main() -> None:
    """Import both in the order asked for, and pass messages to and fro."""
    importers = {"ladle": _import_ladle, "upstream": _import_upstream}
    first = sys.argv[1]
    pools = {name: importers[name]() for name in sorted(importers, key=lambda name: name != first)}
    ours, theirs = pools["ladle"], pools["upstream"]
    names = sorted(_message_names())
    for name in names:
        _exchange(ours.FindMessageTypeByName(name), theirs.FindMessageTypeByName(name))
        _exchange(theirs.FindMessageTypeByName(name), ours.FindMessageTypeByName(name))
    print(f"{len(names)} messages agree")


def _import_ladle() -> DescriptorPool:
    from ladle.protos import services

    return services.pool()


def _import_upstream() -> DescriptorPool:
    import tensorflow_serving

    prefix = f"{tensorflow_serving.__name__}."
    for module in pkgutil.walk_packages(tensorflow_serving.__path__, prefix):
        importlib.import_module(module.name)
    return descriptor_pool.Default()


def _message_names() -> set[str]:
    """The top-level messages that the RPC methods and the warmup file need."""
    from ladle.protos import services

    # The profiler's messages are in TensorFlow's C++ alone.
    methods = [m for m in services.methods().values() if m.service != "tensorflow.ProfilerService"]
    names = {cls.DESCRIPTOR.full_name for m in methods for cls in (m.request, m.response)}
    return {name for name in names if name.startswith("tensorflow.")} | {
        "tensorflow.ConfigProto",
        "tensorflow.SequenceExample",
        "tensorflow.serving.PredictionLog",
        "tensorflow.serving.PlatformConfigMap",
        "tensorflow.serving.SignatureDefMap",
    }


def _exchange(sender: Descriptor, receiver: Descriptor) -> None:
    for message in _samples(sender, _DEPTH):
        received = GetMessageClass(receiver).FromString(message.SerializeToString())
        # A field that the receiver did not know would be missing from its text.
        assert str(received) == str(message), f"{sender.full_name}: {received} is not {message}"


def _samples(descriptor: Descriptor, depth: int) -> Iterator[Message]:
    """Yield messages with one path of fields set in each, so that every field takes its turn."""
    for field in descriptor.fields:
        if field.message_type is None:
            message = GetMessageClass(descriptor)()
            _set(message, field, _scalar(field))
            yield message
        elif depth > 0:
            for value in _samples(field.message_type, depth - 1):
                message = GetMessageClass(descriptor)()
                _set(message, field, value)
                yield message


def _set(message: Message, field: FieldDescriptor, value: Any) -> None:
    slot = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if field.message_type.fields_by_name["value"].message_type is None:
            slot[value.key] = value.value
        else:
            slot[value.key].CopyFrom(value.value)
    elif field.is_repeated:
        slot.append(value)
    elif field.message_type is not None:
        slot.CopyFrom(value)
    else:
        setattr(message, field.name, value)


def _scalar(field: FieldDescriptor) -> object:
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    return _STRING_TYPES.get(field.type, 1)


if __name__ == "__main__":
    main()
