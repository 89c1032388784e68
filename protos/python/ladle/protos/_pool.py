"""The private descriptor pool, and the modules that show it as classes.

Importing this module fills the pool: once in a process, under Python's import lock.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

DESCRIPTORS = os.path.join(os.path.dirname(__file__), "descriptors.binpb.zlib")


def load(path: str | os.PathLike[str]) -> tuple[DescriptorPool, tuple[FileDescriptor, ...]]:
    """Return a new pool filled from a compressed descriptor set, and the files in it.

    Raises:
        ImportError: there is no such file.
    """
    try:
        with open(path, "rb") as file:
            content = zlib.decompress(file.read())
    except FileNotFoundError:
        raise ImportError(
            f"{path} is missing; building ladle makes it: run `pip install -e .` or `make protos`",
            path=str(path),
        ) from None
    pool = DescriptorPool()
    # protoc puts every file after those it imports, which is the order that a pool needs.
    return pool, tuple(pool.AddSerializedFile(file) for file in _files_in(content))


def _files_in(descriptor_set: bytes) -> Iterator[bytes]:
    """Yield each file of a serialized FileDescriptorSet, which is `repeated file = 1` and no more.

    Read by hand, since importing protobuf's own class for it takes longer than all else here.
    """
    position = 0
    while position < len(descriptor_set):
        position += 1  # the tag
        length = shift = 0
        while True:
            byte = descriptor_set[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield descriptor_set[position : position + length]
        position += length


POOL, FILES = load(DESCRIPTORS)


def exports(
    module: dict[str, object], *packages: str
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a module that offers what is in `packages`.

    As in protoc's modules, these are the classes of top-level messages, the wrappers of
    top-level enums, and those enums' values. Each is made when it is first asked for, and then
    stays in `module`, the module's globals.
    """
    files = tuple(file for file in FILES if file.package in packages)

    def __getattr__(name: str) -> object:
        for file in files:
            if (value := _find(file, name)) is not None:
                module[name] = value
                return value
        raise AttributeError(f"module {module['__name__']!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*module, *(name for file in files for name in _names(file))})

    return __getattr__, __dir__


def _find(file: FileDescriptor, name: str) -> object | None:
    if name in file.message_types_by_name:
        return GetMessageClass(file.message_types_by_name[name])
    if name in file.enum_types_by_name:
        return EnumTypeWrapper(file.enum_types_by_name[name])
    for enum in file.enum_types_by_name.values():
        if name in enum.values_by_name:
            return int(enum.values_by_name[name].number)
    return None


def _names(file: FileDescriptor) -> Iterator[str]:
    yield from file.message_types_by_name
    for name, enum in file.enum_types_by_name.items():
        yield name
        yield from enum.values_by_name
