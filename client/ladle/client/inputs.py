"""What a caller hands over, checked against a signature and made into what it declares.

`plan` decides from names, dtypes and shapes alone what is done to each input; `carry_out` does it.
Equal plans send equal bytes, which is how a changed version is told from one that only has a new
number. Pure functions, safe in any thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ladle.client.errors import FailedPrecondition, InvalidInput
from ladle.client.images import is_picture
from ladle.client.models import ModelMetadata, Signature, TensorSpec
from ladle.client.steps import Normalize, Step, about, kind_of, step_for, take
from ladle.protos import dtypes
from ladle.protos.model_card import Normalization

DEFAULT_SIGNATURE = "serving_default"
RAW_SIGNATURE = "serving_uint8"
"""Where ladle's exporter puts the same function over raw pixels, normalised in the graph."""


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
                f'{about(metadata)}: normalize="server" needs a signature that takes raw pixels, '
                f"uint8; expected one of {_names(metadata.signatures)} to"
            )
        arrays = _by_name(declared, given, about(metadata))
        steps = {
            name: step_for(name, array, declared.inputs[name], metadata, normalize)
            for name, array in arrays.items()
        }
    if isinstance(normalize, Normalization) and not any(s.normalization for s in steps.values()):
        raise InvalidInput(
            f"{about(metadata)}: normalize applies to raw pixels, uint8 arrays for an input of "
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
    return {name: take(name, step, arrays[name]) for name, step in plan.steps.items()}


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
                f'{about(metadata)}: output "{name}": expected one of {_names(declared)}'
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
        and (arrays[name].dtype == np.uint8 or kind_of(arrays[name].dtype) == "string")
        and _takes_raw(spec)
        and spec.shape == default.inputs[name].shape
        for name, spec in raw.inputs.items()
    )


def _takes_raw(spec: TensorSpec) -> bool:
    return spec.data_type == dtypes.from_numpy(np.dtype(np.uint8))


def _plan_unchecked(metadata: ModelMetadata, given: Given, normalize: Normalize) -> dict[str, Step]:
    if not isinstance(given, dict):
        raise InvalidInput(
            f"{about(metadata)}: the server doesn't tell the model's signatures, so the input "
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
            f'{about(metadata)}: signature "{name}": expected one of {_names(metadata.signatures)}'
        ) from None


def _by_name(declared: Signature, given: Given, whose: str) -> dict[str, NDArray[Any]]:
    expected = _listing(declared.inputs)
    if not isinstance(given, dict):
        if len(declared.inputs) != 1:
            raise InvalidInput(
                f"{whose}: one array can't stand for {len(declared.inputs)} inputs; "
                f"expected a dict with {expected}"
            )
        return dict.fromkeys(declared.inputs, given)
    unknown = given.keys() - declared.inputs.keys()
    missing = declared.inputs.keys() - declared.optional - given.keys()
    if unknown or missing:
        raise InvalidInput(f"{whose}: expected inputs {expected}, got {_names(given)}")
    return given


def _listing(specs: Mapping[str, TensorSpec]) -> str:
    return "{" + ", ".join(f'"{name}": {spec}' for name, spec in sorted(specs.items())) + "}"


def _names(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in sorted(names)) + "]"
