"""A model's config.pbtxt, which Triton reads beside the model's versions: what of it counts here.

Pure but for `read`. The numbers and names are Triton's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ladle.protos.datatypes import BY_NAME, Datatype
from ladle.protos.files.versions import FOLDER_NAME
from ladle.protos.tensors import NUMPYS_MAX_RANK
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.regular_file import read_text
from ladle.server.core.sources.version_policy import All, Latest, Specific, VersionPolicy
from ladle.server.settings.text_fields import Fields, read_fields

CONFIG_FILE = "config.pbtxt"
WARMUP_FOLDER = "warmup"
"""Where the files of a model's warm-up lie, beside its versions."""

_MAX_BYTES = 1 << 20
_PLATFORMS = ("", "tensorflow_savedmodel")
_BACKENDS = ("", "tensorflow")
# What says the same as the SavedModel does, or is found without being named.
_RESTATED = {"name", "platform", "backend", "input", "default_model_filename"}
_MOST_BYTES_OF_WARMUP = 1 << 30
_STRING_BYTES = 4
_SIGNATURE = "TF_SIGNATURE_DEF"
_MOST_ROUNDS = 1000


class WarmupInput(NamedTuple):
    """One input of a warm-up request."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    """With the batch dimension, where the request has one."""
    source: str
    """`zero`, `random`, or the name of a file with the tensor's raw bytes."""
    is_file: bool


class Warmup(NamedTuple):
    """A request that runs before a version takes callers' requests."""

    name: str
    rounds: int
    inputs: tuple[WarmupInput, ...]


@dataclass(frozen=True, kw_only=True)
class TritonModel:
    """What counts of a config.pbtxt."""

    max_batch_size: int | None = None
    """0: the model has no batches. None: the file doesn't say."""
    has_dynamic_batching: bool = False
    """Whether requests are to be put together."""
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_s: float = 0.0
    instances: int = 0
    """How many batches may run at a time; 0 where the file doesn't say."""
    policy: VersionPolicy | None = None
    labels_files: Mapping[str, str] = field(default_factory=dict)
    """Of outputs that have labels the file that holds them, a line each."""
    signature: str = ""
    """What TF_SIGNATURE_DEF names: which signature requests get that name none; empty for none."""
    warmups: tuple[Warmup, ...] = ()
    without_effect: tuple[str, ...] = ()
    """The names of fields that mean nothing here."""

    def batch_options(self) -> BatchOptions | None:
        """Return how requests are batched; None if each runs alone.

        Batches have as many rows as the largest preferred size at most, and no batch waits for a
        smaller one. A request of more rows than max_batch_size is refused.
        """
        if self.max_batch_size == 0:
            return None
        options = BatchOptions(
            num_batch_threads=self.instances or cpus(), batch_timeout_s=self.max_queue_delay_s
        )
        if self.max_batch_size is None:
            return options
        preferred = max(self.preferred_batch_sizes, default=self.max_batch_size)
        is_cut = preferred < self.max_batch_size
        return BatchOptions(
            max_batch_size=self.max_batch_size,
            batch_timeout_s=options.batch_timeout_s,
            num_batch_threads=options.num_batch_threads,
            refuse_larger=True,
            enable_large_batch_splitting=is_cut,
            max_execution_batch_size=preferred if is_cut else None,
        )


def read(folder: Path) -> TritonModel | None:
    """Return what the config.pbtxt in a model's folder says; None where there is none.

    Raises:
        InvalidArgument: It can't be read, or is wrong; the message begins with the path.
    """
    file = folder / CONFIG_FILE
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidArgument(f"{file}: can't be read: {error.strerror or error}") from None
    try:
        return parse(read_text(file, _MAX_BYTES), _name_of(folder))
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error.message}") from None


def files_named(text: bytes, folder_name: str) -> Collection[str]:
    """Return the files that a config.pbtxt names, as paths from the model's folder.

    Args:
        text: its content. Of one that is wrong there are none: who loads a version says why.
        folder_name: the model's folder's.
    """
    try:
        model = parse(text.decode(), folder_name)
    except (InvalidArgument, UnicodeDecodeError):
        return ()
    inputs = [given for warmup in model.warmups for given in warmup.inputs if given.is_file]
    return {
        *model.labels_files.values(),
        *(f"{WARMUP_FOLDER}/{given.source}" for given in inputs),
    }


def _name_of(folder: Path) -> str:
    """Return a folder's name; of a copy that of the folder that it was copied from."""
    try:
        return read_text(folder / FOLDER_NAME, _MAX_BYTES)
    except InvalidArgument:
        return folder.name


def parse(text: str, folder_name: str) -> TritonModel:
    """Return what a config.pbtxt says of the model in the folder of that name.

    Raises:
        InvalidArgument: It is no such text, of another model, or for what TensorFlow can't load.
    """
    parsed = _parsed(text, folder_name)
    if isinstance(parsed, str):
        raise InvalidArgument(parsed)
    return parsed


@lru_cache(maxsize=256)
def _parsed(text: str, folder_name: str) -> TritonModel | str:
    """Return what the text says, or what is wrong with it: both are asked for again and again."""
    try:
        return _model(read_fields(text), folder_name)
    except InvalidArgument as error:
        return error.message


def _model(fields: Fields, folder_name: str) -> TritonModel:
    name, platform, backend = (fields.text(n) for n in ("name", "platform", "backend"))
    if name not in ("", folder_name):
        raise InvalidArgument(
            f'name: expected the name of the folder, "{folder_name}", got "{name}"'
        )
    if platform not in _PLATFORMS:
        raise InvalidArgument(f'platform: expected "tensorflow_savedmodel", got "{platform}"')
    if backend not in _BACKENDS:
        raise InvalidArgument(f'backend: expected "tensorflow", got "{backend}"')
    batching = fields.message("dynamic_batching")
    max_batch_size = fields.integer("max_batch_size")
    if batching is not None and max_batch_size == 0:
        raise InvalidArgument("dynamic_batching: expected a max_batch_size of 1 or more, got 0")
    preferred = () if batching is None else batching.integers("preferred_batch_size", least=1)
    if max_batch_size is not None and max(preferred, default=0) > max_batch_size:
        raise InvalidArgument(
            f"preferred_batch_size: expected at most max_batch_size, {max_batch_size}, "
            f"got {max(preferred)}"
        )
    delay_us = None if batching is None else batching.integer("max_queue_delay_microseconds")
    return TritonModel(
        max_batch_size=max_batch_size,
        has_dynamic_batching=batching is not None,
        preferred_batch_sizes=preferred,
        max_queue_delay_s=(delay_us or 0) / 1e6,
        instances=_instances(fields),
        policy=_policy(fields.message("version_policy")),
        labels_files=_labels_files(fields),
        signature=_parameter(fields, _SIGNATURE),
        warmups=tuple(_warmup(of) for of in fields.messages("model_warmup")),
        without_effect=_without_effect(fields, batching),
    )


def _instances(fields: Fields) -> int:
    counts = (group.integer("count", least=0) for group in fields.messages("instance_group"))
    return sum(count or 1 for count in counts)


def _policy(fields: Fields | None) -> VersionPolicy | None:
    if fields is None:
        return None
    if fields.message("all") is not None:
        return All()
    specific = fields.message("specific")
    if specific is not None:
        return Specific(frozenset(specific.integers("versions", least=1)))
    latest = fields.message("latest")
    return None if latest is None else Latest(latest.integer("num_versions", least=1) or 1)


def _labels_files(fields: Fields) -> Mapping[str, str]:
    files = {}
    for output in fields.messages("output"):
        file = output.text("label_filename")
        if file:
            _check_file("label_filename", file)
            files[output.text("name")] = file
    return files


def _parameter(fields: Fields, key: str) -> str:
    """Return the value of a parameter; empty where there is none, and of several the last."""
    values = [
        value.text("string_value")
        for entry in fields.messages("parameters")
        if entry.text("key") == key and (value := entry.message("value")) is not None
    ]
    return values[-1] if values else ""


def _warmup(fields: Fields) -> Warmup:
    name = fields.text("name")
    where = f'model_warmup "{name}"'
    batch_size = fields.integer("batch_size") or 0
    rounds = min(fields.integer("count") or 1, _MOST_ROUNDS)
    inputs = []
    for entry in fields.messages("inputs"):
        value = entry.message("value")
        key = entry.text("key")
        if value is None:
            raise InvalidArgument(f'{where}: input "{key}": expected a value')
        inputs.append(_warmup_input(f'{where}: input "{key}"', key, value, batch_size))
    return Warmup(name, rounds, tuple(inputs))


def _warmup_input(where: str, name: str, fields: Fields, batch_size: int) -> WarmupInput:
    given = fields.text("data_type").removeprefix("TYPE_")
    datatype = BY_NAME.get("BYTES" if given == "STRING" else given)
    if datatype is None:
        raise InvalidArgument(f'{where}: data_type: expected a TYPE_..., got "{given}"')
    dims = fields.integers("dims", least=0)
    shape = (batch_size, *dims) if batch_size else dims
    width = _STRING_BYTES if datatype.field == "bytes_contents" else datatype.dtype.itemsize
    if len(shape) > NUMPYS_MAX_RANK:
        raise InvalidArgument(
            f"{where}: expected at most {NUMPYS_MAX_RANK} dimensions, got {len(shape)}"
        )
    # As if no dimension were 0: numpy multiplies the others all the same.
    if math.prod(max(size, 1) for size in shape) * width > _MOST_BYTES_OF_WARMUP:
        raise InvalidArgument(f"{where}: expected at most {_MOST_BYTES_OF_WARMUP} bytes, got more")
    file = fields.text("input_data_file")
    if file:
        _check_file(where, file)
        return WarmupInput(name, datatype, shape, file, is_file=True)
    for source in ("zero", "random"):
        if fields.text(f"{source}_data") == "true":
            return WarmupInput(name, datatype, shape, source, is_file=False)
    raise InvalidArgument(f"{where}: expected zero_data, random_data or an input_data_file")


def _check_file(where: str, name: str) -> None:
    if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
        raise InvalidArgument(f"{where}: expected a file in the model's own folder, got {name!r}")


def _without_effect(fields: Fields, batching: Fields | None) -> tuple[str, ...]:
    used = _RESTATED | {
        "max_batch_size",
        "dynamic_batching",
        "version_policy",
        "output",
        "model_warmup",
        "instance_group",
        "parameters",
    }
    names = sorted(fields.values.keys() - used)
    keys = [entry.text("key") for entry in fields.messages("parameters")]
    names += [f"parameters {key}" for key in keys if key != _SIGNATURE]
    if batching is not None:
        known = {"preferred_batch_size", "max_queue_delay_microseconds"}
        names += [f"dynamic_batching.{name}" for name in sorted(batching.values.keys() - known)]
    return tuple(names)
