"""What a caller hands over, checked against a signature and made into what it declares.

`plan` decides from names, dtypes and shapes alone what is done to each input; `carry_out` does it.
Equal plans send equal bytes, which is how a changed version is told from one that only has a new
number. Pure functions, safe in any thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ladle.client.errors import FailedPrecondition, InvalidInput
from ladle.client.images import Pixels, is_picture, load, wanted_of
from ladle.client.models import ModelMetadata, Signature, TensorSpec
from ladle.protos import dtypes
from ladle.protos.model_card import Normalization

DEFAULT_SIGNATURE = "serving_default"
RAW_SIGNATURE = "serving_uint8"
"""Where ladle's exporter puts the same function over raw pixels, normalised in the graph."""

Normalize: TypeAlias = "Literal['auto', 'client', 'server'] | Normalization | None"
"""What becomes of raw pixels, uint8 arrays or pictures for an input of floats: normalised as the
model's card says, here ("client") or by the model's own signature for raw pixels ("server"), or
there if it has one and else here ("auto"); normalised here as the caller says; or sent as the
numbers that they are (None)."""


class PILImage(Protocol):
    """A `PIL.Image.Image`, told by what only it has."""

    def getexif(self) -> Any:
        """Return what the camera says of it."""


Picture: TypeAlias = "PILImage | bytes | str | os.PathLike[str]"
"""A PIL image, an image file's bytes, or its path."""

Values: TypeAlias = "ArrayLike | Picture | Sequence[Picture]"
"""What can be handed over for one input: anything that numpy makes an array of; or, for an input
whose shape is an image's, pictures."""

Inputs: TypeAlias = "Values | Mapping[str, Values]"
"""What a model is run on: values by name, or those of its only input."""

Given: TypeAlias = "NDArray[Any] | dict[str, NDArray[Any]]"
"""The inputs by name, or the only one."""

_MODES = ("auto", "client", "server", None)
# From which kind of dtype to which other values are taken over.
_CASTS = {
    ("float", "float"),
    ("integer", "integer"),
    ("integer", "float"),
    ("complex", "complex"),
}
# The largest magnitude up to which every integer has a float of its own.
_EXACT_UP_TO = {"bfloat16": 1 << 8, "float16": 1 << 11, "float32": 1 << 24, "float64": 1 << 53}
_EXACT_UP_TO_AT_LEAST = 1 << 3  # float8_e5m2


class Step(NamedTuple):
    """What is done to one input before it is sent."""

    dtype: np.dtype[Any] | None = None
    """What its values become; None leaves them alone."""
    normalization: Normalization | None = None
    """Applied before, where the input is raw pixels."""
    pixels: Pixels | None = None
    """What pictures are made into before all else."""


class Plan(NamedTuple):
    """How inputs are made into what a signature declares."""

    signature: str
    """The signature that is asked for; empty for the default one."""
    steps: dict[str, Step]
    """For each input that is sent, by name."""


def as_given(inputs: Inputs) -> Given:
    """Return the inputs as arrays, without a copy where they are arrays.

    Raises:
        InvalidInput: One of them is not an array, nor anything that numpy makes one of.
    """
    if isinstance(inputs, Mapping):
        return {name: _as_array(values, f'input "{name}"') for name, values in inputs.items()}
    return _as_array(inputs, "inputs")


def plan(metadata: ModelMetadata, signature: str, given: Given, normalize: Normalize) -> Plan:
    """Return what makes `given` into what the signature declares.

    A dtype other than the declared one is accepted where nothing is lost that matters:
    floats become floats of any width, integers any integers or floats (`carry_out` checks that
    their values fit), and complex numbers complex numbers. uint8 for an input of floats is taken
    for raw pixels, and `normalize` says what becomes of them; so are pictures for an input whose
    shape is an image's. A server that tells no signatures leaves nothing to check: all inputs
    pass, and a `normalize` of the caller's applies to uint8.

    Raises:
        InvalidInput: Names, dtypes or shapes are not those of the signature, there is no
            normalisation for raw pixels, or there are no raw pixels for the caller's.
        FailedPrecondition: The model has no such signature.
    """
    if not isinstance(normalize, Normalization) and normalize not in _MODES:
        raise TypeError(
            'normalize: expected "auto", "client", "server", a Normalization or None, '
            f"got {normalize!r}"
        )
    if not metadata.signatures:
        steps = _plan_unchecked(metadata, given, normalize)
    else:
        if not signature and normalize in ("auto", "server") and _is_for_raw(metadata, given):
            signature = RAW_SIGNATURE
        declared = _signature(metadata, signature)
        if normalize == "server" and not any(_takes_raw(s) for s in declared.inputs.values()):
            raise FailedPrecondition(
                f'{_about(metadata)}: normalize="server" needs a signature that takes raw pixels, '
                f"uint8; expected one of {_names(metadata.signatures)} to"
            )
        arrays = _by_name(declared, given, _about(metadata))
        steps = {
            name: _step(name, array, declared.inputs[name], metadata, normalize)
            for name, array in arrays.items()
        }
    if isinstance(normalize, Normalization) and not any(s.normalization for s in steps.values()):
        raise InvalidInput(
            f"{_about(metadata)}: normalize applies to raw pixels, uint8 arrays for an input of "
            "floats, and none of the inputs is that"
        )
    return Plan(signature, steps)


def carry_out(plan: Plan, given: Given) -> dict[str, NDArray[Any]]:
    """Return the inputs as they are sent, in the order of the plan; untouched ones are not copied.

    Raises:
        InvalidInput: Values that the declared dtype can't hold, or a normalisation for another
            number of channels.
    """
    arrays = given if isinstance(given, dict) else dict.fromkeys(plan.steps, given)
    return {name: _take(name, step, arrays[name]) for name, step in plan.steps.items()}


def check_outputs(metadata: ModelMetadata, signature: str, outputs: tuple[str, ...]) -> None:
    """Check that a signature has the outputs that are asked for.

    Raises:
        InvalidInput: One is not among them.
        FailedPrecondition: The model has no such signature.
    """
    if not outputs or not metadata.signatures:
        return
    declared = _signature(metadata, signature).outputs
    for name in outputs:
        if name not in declared:
            raise InvalidInput(
                f'{_about(metadata)}: output "{name}": expected one of {_names(declared)}'
            )


def _as_array(values: Any, what: str) -> NDArray[Any]:
    try:
        if is_picture(values):
            values = [values]
        if isinstance(values, list | tuple) and values and is_picture(values[0]):
            pictures = np.empty(len(values), object)
            for index, picture in enumerate(values):  # at once, numpy would look into each
                pictures[index] = picture
            return pictures
        try:
            array = np.asarray(values)
        except UnicodeDecodeError:  # text and bytes in one list
            array = np.asarray(values, object)
        if array.dtype.kind in "SU" and not isinstance(values, np.ndarray | np.generic):
            # numpy's fixed-width strings end at the last character that is not NUL, and the
            # serialised messages that models take as strings may end in NULs.
            array = np.asarray(values, object)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{what}: numpy can't make an array of it: {error}") from error
    return array


def _is_for_raw(metadata: ModelMetadata, given: Given) -> bool:
    """Tell whether there are raw pixels for floats, and a signature that takes them instead."""
    default = metadata.signatures.get(DEFAULT_SIGNATURE)
    raw = metadata.signatures.get(RAW_SIGNATURE)
    if default is None or raw is None or metadata.card is None:
        return False
    if metadata.card.normalization is None or raw.inputs.keys() != default.inputs.keys():
        return False
    arrays = given if isinstance(given, dict) else dict.fromkeys(default.inputs, given)
    return default.outputs.keys() <= raw.outputs.keys() and all(
        name in arrays
        and (arrays[name].dtype == np.uint8 or _kind(arrays[name].dtype) == "string")
        and _takes_raw(spec)
        and spec.shape == default.inputs[name].shape
        for name, spec in raw.inputs.items()
    )


def _takes_raw(spec: TensorSpec) -> bool:
    return spec.data_type == dtypes.from_numpy(np.dtype(np.uint8))


def _plan_unchecked(metadata: ModelMetadata, given: Given, normalize: Normalize) -> dict[str, Step]:
    if not isinstance(given, dict):
        raise InvalidInput(
            f"{_about(metadata)}: the server doesn't tell the model's signatures, so the input "
            "needs its name: give a dict, {name: array}"
        )
    own = normalize if isinstance(normalize, Normalization) else None
    return {
        name: Step(normalization=own) if array.dtype == np.uint8 else Step()
        for name, array in given.items()
    }


def _signature(metadata: ModelMetadata, signature: str) -> Signature:
    name = signature or DEFAULT_SIGNATURE
    try:
        return metadata.signatures[name]
    except KeyError:
        raise FailedPrecondition(
            f'{_about(metadata)}: signature "{name}": expected one of {_names(metadata.signatures)}'
        ) from None


def _by_name(declared: Signature, given: Given, about: str) -> dict[str, NDArray[Any]]:
    expected = _listing(declared.inputs)
    if not isinstance(given, dict):
        if len(declared.inputs) != 1:
            raise InvalidInput(
                f"{about}: one array can't stand for {len(declared.inputs)} inputs; "
                f"expected a dict with {expected}"
            )
        return dict.fromkeys(declared.inputs, given)
    unknown = given.keys() - declared.inputs.keys()
    missing = declared.inputs.keys() - declared.optional - given.keys()
    if unknown or missing:
        raise InvalidInput(f"{about}: expected inputs {expected}, got {_names(given)}")
    return given


def _step(
    name: str, array: NDArray[Any], spec: TensorSpec, metadata: ModelMetadata, normalize: Normalize
) -> Step:
    def refuse(advice: str = "") -> InvalidInput:
        given = f"{array.dtype} {list(array.shape)}"
        message = f'input "{name}" of {_about(metadata)}: expected {spec}, got {given}'
        return InvalidInput(f"{message}; {advice}" if advice else message)

    source = _kind(array.dtype)
    pixels = wanted_of(spec.shape) if source == "string" and array.ndim <= 1 else None
    if pixels is not None and spec.data_type != dtypes.STRING:
        if not array.size:
            raise refuse()
        # What they will be, as far as checks go; it takes no memory.
        seen = np.broadcast_to(np.uint8(0), (array.size, *_sizes(pixels)))
        return _step(name, seen, spec, metadata, normalize)._replace(pixels=pixels)
    if spec.shape is not None and not _fits(array.shape, spec.shape):
        single = _fits((1, *array.shape), spec.shape)
        raise refuse("make a batch of the single example: array[None]" if single else "")
    try:
        declared = spec.dtype
    except dtypes.UnsupportedDtype:
        return Step()  # nothing that this client could make of it; the server decides
    if array.dtype == declared:
        return Step()
    target = _kind(declared)
    if source == target == "string":
        return Step()
    if (source, target) == ("integer", "float") and normalize is not None:
        recorded = metadata.card.normalization if metadata.card else None
        if array.dtype == np.uint8:
            normalization = recorded if isinstance(normalize, str) else normalize
            if normalization is None:
                raise refuse(_no_normalization(metadata))
            return Step(declared, normalization)
        if isinstance(normalize, str) and recorded is not None:
            raise refuse(
                "pass raw pixels as uint8, normalised ones as floats, "
                "or normalize=None to send the numbers as they are"
            )
    if (source, target) not in _CASTS:
        raise refuse()
    return Step(declared)


def _sizes(pixels: Pixels) -> tuple[int, ...]:
    """Return the shape of one picture made so, 0 where it isn't known; good for checks alone."""
    sizes = (max(pixels.height, 0), max(pixels.width, 0))
    return sizes if pixels.channels is None else (*sizes, max(pixels.channels, 0))


def _fits(given: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(given) == len(declared) and all(
        size in (-1, actual) for actual, size in zip(given, declared, strict=True)
    )


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iu":
        return "integer"
    if dtype.kind in "OSU":
        return "string"
    if dtype.kind == "c":
        return "complex"
    # numpy counts only some of ml_dtypes' types as floats, but all tell by their names.
    return "float" if dtype.name.startswith(("float", "bfloat")) else dtype.name


def _take(name: str, step: Step, array: NDArray[Any]) -> NDArray[Any]:
    if step.pixels is not None:
        try:
            array = load(array, step.pixels)
        except InvalidInput as error:
            raise InvalidInput(f'input "{name}": {error}') from error.__cause__
    if step.normalization is not None:
        try:
            array = step.normalization.apply(array)
        except ValueError as error:
            raise InvalidInput(
                f'input "{name}": {step.normalization} does not apply to shape '
                f"{list(array.shape)}: {error}"
            ) from error
    if step.dtype is None or array.dtype == step.dtype:
        return array
    if _kind(array.dtype) == "integer":
        _check_range(name, array, step.dtype)
    try:
        with np.errstate(over="raise"):
            return array.astype(step.dtype)
    except FloatingPointError as error:
        raise InvalidInput(f'input "{name}": values too large for {step.dtype}') from error


def _check_range(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    if not array.size or np.can_cast(array.dtype, dtype, "safe"):
        return
    if _kind(dtype) == "integer":
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    else:
        high = _EXACT_UP_TO.get(dtype.name, _EXACT_UP_TO_AT_LEAST)
        low = -high
    least, most = int(array.min()), int(array.max())
    if least < low or most > high:
        raise InvalidInput(
            f'input "{name}": expected {dtype}, which holds integers from {low} to {high} exactly, '
            f"got {array.dtype} from {least} to {most}"
        )


def _no_normalization(metadata: ModelMetadata) -> str:
    if metadata.card_error:
        why = f"its card can't be read ({metadata.card_error})"
    else:
        why = "no normalisation is recorded with the model"
    return (
        f"{why}: pass normalize=Normalization(divisor=255), or whatever the training did, "
        "send what the signature takes, or pass normalize=None to send the numbers as they are"
    )


def _about(metadata: ModelMetadata) -> str:
    version = f" version {metadata.version}" if metadata.version is not None else ""
    return f'model "{metadata.model}"{version}'


def _listing(specs: Mapping[str, TensorSpec]) -> str:
    return "{" + ", ".join(f'"{name}": {spec}' for name, spec in sorted(specs.items())) + "}"


def _names(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in sorted(names)) + "]"
