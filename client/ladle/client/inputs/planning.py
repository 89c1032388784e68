"""A caller's inputs, checked against a signature and converted into the declared tensors.

`plan` decides from names, dtypes and shapes how each input is converted; `execute` converts it.
Equal plans send equal bytes. So two versions with equal plans need no second
request. Pure functions, safe in any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ladle.client.errors import FailedPrecondition, InvalidInput
from ladle.client.inputs.arrays import Arrays
from ladle.client.inputs.conversion import (
    Conversion,
    Normalize,
    about,
    apply,
    conversion_for,
    kind_of,
)
from ladle.client.inputs.frames import Table, stack_columns
from ladle.client.models import (
    DEFAULT_SIGNATURE,
    RAW_SIGNATURE,
    ModelMetadata,
    Signature,
    TensorSpec,
)
from ladle.protos import dtypes
from ladle.protos.model_card import Normalization

_MODES = ("auto", "client", "server", None)


class Plan(NamedTuple):
    """How inputs are converted into the tensors that a signature declares."""

    signature: str
    """The signature that the request names; empty for the default one."""
    conversions: dict[str, Conversion]
    """By the name of each input that is sent."""
    columns: tuple[str, ...] = ()
    """The columns that become the only input, in the order of the model; empty for inputs that are
    given as they are sent."""


def plan(metadata: ModelMetadata, signature: str, inputs: Arrays, normalize: Normalize) -> Plan:
    """Return how `inputs` are converted into the tensors that the signature declares.

    A dtype other than the declared one is accepted if nothing important is lost:
    floats become floats of any width, integers any integers or floats (`execute` checks that
    their values fit), booleans 0 and 1, and complex numbers complex numbers. uint8 for an input of
    floats counts as raw pixels, and `normalize` says how they are normalised; so do pictures for an
    input whose shape is an image's. If the server gives no signatures, nothing is checked, and a
    Normalization of the caller's applies to uint8.

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
    columns: tuple[str, ...] = ()
    if not metadata.signatures:
        conversions = _plan_unchecked(metadata, inputs, normalize)
    else:
        if not signature and normalize in ("auto", "server") and _is_for_raw(metadata, inputs):
            signature = RAW_SIGNATURE
        declared = _signature(metadata, signature)
        if normalize == "server" and not any(_takes_raw(s) for s in declared.inputs.values()):
            raise FailedPrecondition(
                f'{about(metadata)}: normalize="server" needs a signature that takes raw pixels, '
                f"uint8; expected one of {_names(metadata.signatures)} to"
            )
        columns = _columns(metadata, declared, inputs)
        if columns and isinstance(inputs, dict):
            inputs = stack_columns(inputs, columns, next(iter(declared.inputs)))
        arrays = _by_name(declared, inputs, about(metadata))
        conversions = {}
        for name, array in arrays.items():
            spec = declared.inputs[name]
            is_column = isinstance(inputs, Table) and array.ndim == 1 and spec.shape == (-1, 1)
            seen = array[:, None] if is_column else array
            conversions[name] = conversion_for(name, seen, spec, metadata, normalize)._replace(
                is_column=is_column
            )
    if isinstance(normalize, Normalization) and not any(
        s.normalization for s in conversions.values()
    ):
        raise InvalidInput(
            f"{about(metadata)}: normalize applies to raw pixels, uint8 arrays for an input of "
            "floats, and none of the inputs is that"
        )
    return Plan(signature, conversions, columns)


def execute(plan: Plan, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """Return the arrays to send, in the order of the plan; unchanged arrays are not copied.

    Raises:
        InvalidInput: Values that the declared dtype can't hold, or a normalisation for another
            number of channels.
    """
    if plan.columns and isinstance(inputs, dict):
        inputs = stack_columns(inputs, plan.columns, next(iter(plan.conversions)))
    elif isinstance(inputs, Table):
        inputs = inputs.for_inputs(list(plan.conversions))
    arrays = inputs if isinstance(inputs, dict) else dict.fromkeys(plan.conversions, inputs)
    return {
        name: apply(name, conversion, arrays[name]) for name, conversion in plan.conversions.items()
    }


def check_outputs(metadata: ModelMetadata, signature: str, outputs: tuple[str, ...]) -> None:
    """Check that a signature has the requested outputs.

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


def _is_for_raw(metadata: ModelMetadata, inputs: Arrays) -> bool:
    """Return whether the inputs are raw pixels for floats, and a signature takes raw pixels."""
    default = metadata.signatures.get(DEFAULT_SIGNATURE)
    raw = metadata.signatures.get(RAW_SIGNATURE)
    if default is None or raw is None or metadata.card is None:
        return False
    if metadata.card.normalization is None or raw.inputs.keys() != default.inputs.keys():
        return False
    arrays = inputs if isinstance(inputs, dict) else dict.fromkeys(default.inputs, inputs)
    return default.outputs.keys() <= raw.outputs.keys() and all(
        name in arrays
        and (arrays[name].dtype == np.uint8 or kind_of(arrays[name].dtype) == "string")
        and _takes_raw(spec)
        and spec.shape == default.inputs[name].shape
        for name, spec in raw.inputs.items()
    )


def _takes_raw(spec: TensorSpec) -> bool:
    return spec.data_type == dtypes.from_numpy(np.dtype(np.uint8))


def _plan_unchecked(
    metadata: ModelMetadata, inputs: Arrays, normalize: Normalize
) -> dict[str, Conversion]:
    if not isinstance(inputs, dict):
        raise InvalidInput(
            f"{about(metadata)}: the server gives no signatures of the model, so the input "
            "needs its name: give a dict, {name: array}"
        )
    own = normalize if isinstance(normalize, Normalization) else None
    return {
        name: Conversion(normalization=own) if array.dtype == np.uint8 else Conversion()
        for name, array in inputs.items()
    }


def _signature(metadata: ModelMetadata, signature: str) -> Signature:
    name = signature or DEFAULT_SIGNATURE
    try:
        return metadata.signatures[name]
    except KeyError:
        raise FailedPrecondition(
            f'{about(metadata)}: signature "{name}": expected one of {_names(metadata.signatures)}'
        ) from None


def _by_name(declared: Signature, inputs: Arrays, whose: str) -> dict[str, NDArray[Any]]:
    expected = _listing(declared.inputs)
    if not isinstance(inputs, dict):
        if len(declared.inputs) != 1:
            raise InvalidInput(
                f"{whose}: one array can't stand for {len(declared.inputs)} inputs; "
                f"expected a dict with {expected}"
            )
        return dict.fromkeys(declared.inputs, inputs)
    if isinstance(inputs, Table):
        inputs = inputs.for_inputs(list(declared.inputs))
    unknown = inputs.keys() - declared.inputs.keys()
    missing = declared.inputs.keys() - declared.optional - inputs.keys()
    if unknown or (missing and declared.is_optional_known):
        raise InvalidInput(f"{whose}: expected inputs {expected}, got {_names(inputs)}")
    return inputs


def _columns(metadata: ModelMetadata, declared: Signature, inputs: Arrays) -> tuple[str, ...]:
    """Return the columns of the model's table, in its order, where `inputs` are such columns.

    Raises:
        InvalidInput: Some columns are missing, or some are none of the model's.
    """
    card = metadata.card
    if card is None or not card.columns or not isinstance(inputs, dict):
        return ()
    names = tuple(column.name for column in card.columns)
    shapes = [spec.shape for spec in declared.inputs.values()]
    is_text = len(names) == 1 and card.columns[0].dtype == "string" and shapes == [(-1,)]
    if inputs.keys() == declared.inputs.keys() or not (is_text or shapes == [(-1, len(names))]):
        return ()
    missing, unknown = set(names) - inputs.keys(), inputs.keys() - set(names)
    if missing or unknown:
        problems = [f"missing {_names(missing)}"] if missing else []
        problems += [f"not of the model {_names(unknown)}"] if unknown else []
        raise InvalidInput(
            f"{about(metadata)}: expected its {len(names)} columns by name, or one array "
            f"{_listing(declared.inputs)}; {', '.join(problems)}"
        )
    return names


def _listing(specs: Mapping[str, TensorSpec]) -> str:
    return "{" + ", ".join(f'"{name}": {spec}' for name, spec in sorted(specs.items())) + "}"


def _names(names: Iterable[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in sorted(names)) + "]"
