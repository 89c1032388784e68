"""What a model's config.pbtxt asks of a load: labels, a default signature, warm-up requests."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ladle.protos import dtypes
from ladle.protos.files.regular_file import TooLargeError, read_bytes
from ladle.protos.model_card import ModelCard
from ladle.server.core.errors import InvalidArgument, ServingError
from ladle.server.core.observation import Loading, Observer
from ladle.server.core.regular_file import read_text
from ladle.server.core.servable import Arrays, Model, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.open_inference.tensors import Tensor, from_raw
from ladle.server.settings import triton_model
from ladle.server.settings.triton_model import WARMUP_FOLDER, Warmup, WarmupInput

logger = logging.getLogger(__name__)

_MOST_LABELS_BYTES = 16 << 20
_MOST_WARMUP_BYTES = 1 << 30
_DEFAULT_SIGNATURE = "serving_default"


def card(folder: Path) -> ModelCard | None:
    """Return the labels that a model's config.pbtxt names, as a model card; None without any.

    Says in the log what the file can't set. `folder` holds the model's versions. Blocks.

    Raises:
        InvalidArgument: A file is wrong, or can't be read.
    """
    described = triton_model.read(folder)
    if described is None:
        return None
    if described.without_effect:
        file = folder / triton_model.CONFIG_FILE
        logger.warning("%s: without effect: %s", file, ", ".join(described.without_effect))
    named = described.labels_files
    if not named:
        return None
    labels = {file: _labels(folder / file) for file in sorted(set(named.values()))}
    if len(labels) == 1:
        (of_all,) = labels.values()
        return ModelCard(labels=of_all)
    return ModelCard(outputs={output: {"labels": labels[file]} for output, file in named.items()})


def _labels(file: Path) -> tuple[str, ...]:
    try:
        text = read_text(file, _MOST_LABELS_BYTES)
    except InvalidArgument as error:
        raise InvalidArgument(f"{file}: {error.message}") from None
    # Not splitlines(): a label may hold what Unicode calls an end of a line.
    lines = text.removesuffix("\n").split("\n") if text else []
    return tuple(line.strip() for line in lines)


def completes(folder: Path, card_json: str | None) -> bool:
    """Whether a load adds to a version what its own files don't say; as `card`.

    Args:
        folder: holds the model's versions.
        card_json: the version's own model card; None if it brings none.
    """
    described = triton_model.read(folder)
    if described is None:
        return False
    return bool(described.signature or (described.labels_files and card_json is None))


def set_signature(folder: Path, servable: Model) -> None:
    """Have requests that name no signature get the one that a model's config.pbtxt names, if any.

    Raises:
        InvalidArgument: The model has no such signature.
    """
    described = triton_model.read(folder)
    wanted = described.signature if described is not None else ""
    if not wanted:
        return
    if wanted not in servable.signatures:
        raise InvalidArgument(
            f"{folder / triton_model.CONFIG_FILE}: TF_SIGNATURE_DEF: expected one of "
            f'{sorted(servable.signatures)}, got "{wanted[:200]}"'
        )
    servable.default_signature = wanted


def warm_up(
    servable_id: ServableId, path: Path, servable: Model, observer: Observer | None = None
) -> None:
    """Run the warm-up requests of a model's config.pbtxt on the version in `path`; blocks.

    Raises:
        ServingError: A request doesn't fit the model, or the model refuses it. The version should
            not be served then.
    """
    described = triton_model.read(path.parent)
    if described is None or not described.warmups:
        return
    started = time.monotonic()
    failure: ServingError | None = None
    try:
        for warmup in described.warmups:
            try:
                _run(warmup, servable_id, path.parent, servable)
            except ServingError as error:
                file = path.parent / triton_model.CONFIG_FILE
                failure = ServingError(
                    f'{servable_id}: model_warmup "{warmup.name}" of {file} failed: '
                    f"{error.message}",
                    error.code,
                )
                raise failure from error
    finally:
        if observer is not None:
            took_s = time.monotonic() - started
            loading = Loading(servable_id, path, took_s, failure)
            observer.warmup_ended(loading, len(described.warmups))


def _run(warmup: Warmup, servable_id: ServableId, folder: Path, servable: Model) -> None:
    arrays = {
        given.name: _array(given, servable_id.name, folder / WARMUP_FOLDER)
        for given in warmup.inputs
    }
    signature = _signature(servable, arrays)
    for _ in range(warmup.rounds):
        servable.run(signature, arrays, tuple(signature.outputs))


def _signature(servable: Model, arrays: Arrays) -> Signature:
    """Return the signature that requests without one get.

    Raises:
        InvalidArgument: The arrays are not its inputs.
    """
    signatures = servable.signatures
    default = servable.default_signature or _DEFAULT_SIGNATURE
    signature = signatures.get(default) or next(iter(signatures.values()), None)
    if signature is None:
        raise InvalidArgument("expected a model with a signature, got none")
    needed = signature.inputs.keys() - signature.defaults.keys()
    if needed - arrays.keys() or arrays.keys() - signature.inputs.keys():
        raise InvalidArgument(f"expected inputs {sorted(signature.inputs)}, got {sorted(arrays)}")
    for name, array in arrays.items():
        spec = signature.inputs[name]
        if dtypes.from_numpy(array.dtype) != spec.data_type or not spec.admits(array.shape):
            dtype = "string" if array.dtype.hasobject else array.dtype
            raise InvalidArgument(
                f'input "{name}": expected {spec}, got {dtype} {list(array.shape)}'
            )
    return signature


def _array(given: WarmupInput, model: str, folder: Path) -> NDArray[Any]:
    dtype = given.datatype.dtype
    if given.is_file:
        file = folder / given.source
        try:
            raw = read_bytes(file, _MOST_WARMUP_BYTES)
        except TooLargeError as error:
            raise InvalidArgument(f"{file}: {error}") from None
        except OSError as error:
            raise InvalidArgument(f"{file}: can't be read: {error.strerror or error}") from None
        return from_raw(given.datatype, given.shape, raw, Tensor(given.name, model))
    if dtype.hasobject:
        strings = np.empty(given.shape, object)
        strings[...] = b"" if given.source == "zero" else b"text"
        return strings
    if given.source == "zero":
        return np.zeros(given.shape, dtype)
    random = np.random.default_rng(0)
    if dtype.kind in "iub":
        # 0 and 1 are indices that every table has.
        bits: NDArray[Any] = random.integers(0, 2, given.shape).astype(dtype)
        return bits
    values: NDArray[Any] = random.random(given.shape, np.float32).astype(dtype)
    return values
