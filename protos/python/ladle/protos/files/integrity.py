"""Whether a version's folder holds all of a SavedModel, told without TensorFlow.

A version that is still being copied lacks a file, or the end of one. What each file must hold is
written in the others: saved_model.pb is a sequence of fields that carry their own lengths,
and variables.index is a sorted table (TensorFlow's copy of LevelDB's format, uncompressed) that
names, for each variable, the shard it lies in, where it begins and how long it is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ladle.protos.files.framing import CutShortError, FileBytes, fields, varint
from ladle.protos.files.regular_file import TooLargeError, open_regular, read_bytes

_META_GRAPHS = 2  # field of SavedModel
_SAVER_DEF = 3  # field of MetaGraphDef
# Other forms of a model, which are taken for whole.
_UNCHECKED = ("saved_model.pbtxt", "saved_model.cpb", "model.tflite")
_VARIABLE_OPS = (b"VarHandleOp", b"VariableV2")

_FOOTER_BYTES = 48
_MAGIC = 0xDB4775248B80FB57
_BLOCK_TRAILER_BYTES = 5  # compression, checksum
# Names hundreds of thousands of variables; what is larger is left to TensorFlow.
_MAX_INDEX_BYTES = 32 << 20
# A graph has few fields at its top, a signature each; what has more is left to TensorFlow.
_MOST_FIELDS = 100_000

_CHUNK_BYTES = 1 << 20
_INDEX = "variables/variables.index"
_POINTER_BEGINS = b"version https://git-lfs.github.com/"
_POINTER = "is a pointer of Git LFS, and not the file: fetch it with git lfs pull"
_KERAS_FILES = (".keras", ".h5", ".hdf5")
_MOST_NAMES = 1000


class _UnknownFormatError(Exception):
    """It can't be told; TensorFlow may."""


def model_folder(folder: Path) -> Path:
    """Return where the model of a version lies: its folder, or the `.savedmodel` in that.

    Triton keeps a SavedModel in a folder of its own, `1/model.savedmodel`.
    """
    if any((folder / name).is_file() for name in ("saved_model.pb", *_UNCHECKED)):
        return folder
    try:
        inner = [child for child in folder.iterdir() if child.suffix == ".savedmodel"]
    except OSError:
        return folder
    return inner[0] if len(inner) == 1 and inner[0].is_dir() else folder


def find_missing(folder: Path) -> str | None:
    """Return what a version's folder lacks to be a whole SavedModel, or None if nothing.

    Reads the index and the framing of saved_model.pb, and no variables: it takes milliseconds.
    What it can't judge, such as a model in text format, counts as whole.

    Raises:
        OSError: A file can't be read.
    """
    try:
        if not folder.is_dir():
            return "it is not a folder"
        folder = model_folder(folder)
        graph = folder / "saved_model.pb"
        if graph.is_file():
            needs_variables = _check_graph(graph)
        elif any((folder / n).is_file() for n in _UNCHECKED):
            needs_variables = False
        else:
            return f"there is no saved_model.pb{_instead(folder)}"
        _check_variables(folder / "variables", needs_variables)
    except CutShortError as problem:
        return str(problem)
    except _UnknownFormatError:
        pass
    except (struct.error, IndexError):
        return "variables/variables.index can't be parsed"
    return None


def _instead(folder: Path) -> str:
    """Return what a folder without a SavedModel holds in its place, and what to do; or nothing."""
    for child in sorted(islice(folder.iterdir(), _MOST_NAMES)):
        if child.suffix in _KERAS_FILES and child.is_file():
            return f"; {child.name} is a file of Keras: write a SavedModel with model.export()"
        if (child / "saved_model.pb").is_file():
            return f"; it is in {child.name}/: a version's folder has to hold it directly"
    return ""


def _is_pointer(file: BinaryIO) -> bool:
    """Whether a file is what Git keeps in the place of a large one."""
    file.seek(0)
    return file.read(len(_POINTER_BEGINS)) == _POINTER_BEGINS


def _check_graph(path: Path) -> bool:
    """Check the framing of saved_model.pb; return whether variables belong to it."""
    with open_regular(path) as file:
        size = file.seek(0, 2)
        if not size:
            raise CutShortError("saved_model.pb is empty")
        if _is_pointer(file):
            raise CutShortError(f"saved_model.pb {_POINTER}")
        data = FileBytes(file)
        found = saved = False
        seen = 0
        for field in fields(data, 0, size, "saved_model.pb"):
            seen += 1
            if field.number == _META_GRAPHS and field.wire_type == 2:
                found = True
                for inner in fields(data, field.start, field.end, "saved_model.pb"):
                    seen += 1
                    saved |= inner.number == _SAVER_DEF
                    if seen > _MOST_FIELDS:
                        raise _UnknownFormatError
            if seen > _MOST_FIELDS:
                raise _UnknownFormatError
        if not found:
            raise CutShortError("saved_model.pb holds no graph")
        # A frozen graph keeps the description of a saver that has nothing to restore.
        return saved and _mentions_variables(file)


def _mentions_variables(file: BinaryIO) -> bool:
    file.seek(0)
    overlap = b""
    while chunk := file.read(_CHUNK_BYTES):
        if any(op in overlap + chunk for op in _VARIABLE_OPS):
            return True
        overlap = chunk[-16:]
    return False


def _check_variables(folder: Path, needed: bool) -> None:
    index = folder / "variables.index"
    if not index.is_file():
        if needed or any(folder.glob("variables.data-*")):
            raise CutShortError("there is no variables/variables.index")
        return
    if index.stat().st_size > _MAX_INDEX_BYTES:
        raise _UnknownFormatError
    try:
        shards, ends = _read_index(read_bytes(index, _MAX_INDEX_BYTES))
    except TooLargeError:
        raise _UnknownFormatError from None  # it has grown just now
    for shard in range(shards):
        name = f"variables.data-{shard:05d}-of-{shards:05d}"
        try:
            with open_regular(folder / name) as file:
                size = os.fstat(file.fileno()).st_size
                is_pointer = _is_pointer(file)
        except FileNotFoundError:
            raise CutShortError(f"there is no variables/{name}") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise CutShortError(f"variables/{name} can't be read: {reason}") from None
        if is_pointer:
            raise CutShortError(f"variables/{name} {_POINTER}")
        expected = ends.get(shard, 0)
        if size < expected:
            raise CutShortError(f"variables/{name} has {size} bytes: expected {expected}")


def _read_index(table: bytes) -> tuple[int, dict[int, int]]:
    """Return how many shards an index names, and the size that each has at least."""
    view = memoryview(table)
    if len(table) < _FOOTER_BYTES or struct.unpack_from("<Q", table, len(table) - 8)[0] != _MAGIC:
        raise CutShortError("variables/variables.index is cut short")
    _, _, at = _handle(view, len(table) - _FOOTER_BYTES)
    offset, size, _ = _handle(view, at)
    shards = 1
    ends: dict[int, int] = {}
    free_from = 0
    for _, block_handle in _block(view, offset, size):
        offset, size, _ = _handle(block_handle, 0)
        if offset < free_from:
            # A table of blocks that overlap could name each entry again and again.
            raise CutShortError("variables/variables.index can't be parsed")
        free_from = offset + size
        for key_length, value in _block(view, offset, size):
            numbers = _integers(value)
            if not key_length:  # BundleHeaderProto: num_shards = 1
                shards = numbers.get(1, 1)
            else:  # BundleEntryProto: shard_id = 3, offset = 4, size = 5
                shard, end = numbers.get(3, 0), numbers.get(4, 0) + numbers.get(5, 0)
                ends[shard] = max(ends.get(shard, 0), end)
    return shards, ends


def _block(table: memoryview, offset: int, size: int) -> Iterator[tuple[int, memoryview]]:
    """Yield the length of each key, and its value, of one block of a table.

    Keys share their beginnings: written out, they may take the square of the block's size.
    """
    end = offset + size
    if end + _BLOCK_TRAILER_BYTES > len(table) or size < 4:
        raise CutShortError("variables/variables.index is cut short")
    if table[end] != 0:
        raise _UnknownFormatError  # compressed, which TensorFlow's writer never does
    restarts = struct.unpack_from("<I", table, end - 4)[0]
    entries_end = end - 4 - 4 * restarts
    key_length = 0
    at = offset
    while at < entries_end:
        shared, at = varint(table, at, entries_end, _INDEX)
        unshared, at = varint(table, at, entries_end, _INDEX)
        length, at = varint(table, at, entries_end, _INDEX)
        key_length = min(shared, key_length) + unshared
        at += unshared
        yield key_length, table[at : at + length]
        at += length


def _handle(data: memoryview, at: int) -> tuple[int, int, int]:
    """Return a block's offset and size, and where the handle ends."""
    offset, at = varint(data, at, len(data), _INDEX)
    size, at = varint(data, at, len(data), _INDEX)
    return offset, size, at


def _integers(message: memoryview) -> dict[int, int]:
    found = fields(message, 0, len(message), _INDEX)
    return {field.number: field.value for field in found if field.wire_type == 0}
