"""The parameters of a request: those that have a meaning here, and the type of each."""

from __future__ import annotations

from collections.abc import Mapping

from ladle.protos.inference_pb import InferParameter
from ladle.server.core.errors import InvalidArgument, Unimplemented

SHARED_MEMORY = "shared memory is not supported"
"""The answer to a request that needs it."""

_SHARED_MEMORY = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset")
_OF_SEQUENCES = ("sequence_start", "sequence_end")
# The protocol's own word, which has no effect here: models are not decoupled.
_TRITONS = "triton_enable_empty_final_response"


def check_parameters(parameters: Mapping[str, InferParameter]) -> None:
    """Refuse a request's parameters where one is of a wrong type.

    Names without a meaning are the caller's own, and pass.

    Raises:
        InvalidArgument: A value has the wrong type or is out of range, or a name is reserved.
    """
    for key, value in parameters.items():
        _check(key, value)


def refuse_shared_memory(parameters: Mapping[str, InferParameter]) -> None:
    """Refuse a tensor that is in shared memory, by its parameters.

    Raises:
        Unimplemented: It is.
    """
    if any(key in parameters for key in _SHARED_MEMORY):
        raise Unimplemented(SHARED_MEMORY)


def timeout_s(parameters: Mapping[str, InferParameter]) -> float | None:
    """Return after how many seconds the caller stops waiting; None if it does not say."""
    if "timeout" not in parameters:
        return None
    return parameters["timeout"].int64_param / 1e6 or None


def wants_typed(parameters: Mapping[str, InferParameter]) -> bool:
    """Whether the answer is to go into typed fields, and not into raw bytes."""
    key = "binary_data_output"
    return key in parameters and not parameters[key].bool_param


def signature_name(parameters: Mapping[str, InferParameter]) -> str:
    """Return the signature that is asked for; empty if none is."""
    key = "signature_name"
    return parameters[key].string_param if key in parameters else ""


def _check(key: str, value: InferParameter) -> None:
    kind = value.WhichOneof("parameter_choice")
    if key == "timeout":
        _require(key, kind, "int64_param")
        if value.int64_param < 0:
            raise InvalidArgument(
                f"invalid value for 'timeout' parameter, expected >= 0, got {value.int64_param}"
            )
    elif key == "priority":
        if kind == "int64_param" and value.int64_param < 0:
            raise InvalidArgument("invalid value for 'priority' parameter, expected >= 0")
        _require(key, kind, "uint64_param", "int64_param")
    elif key == "sequence_id":
        _require(key, kind, "int64_param", "string_param")
    elif key in (*_OF_SEQUENCES, "binary_data_output", _TRITONS):
        _require(key, kind, "bool_param")
    elif key == "signature_name":
        _require(key, kind, "string_param")
    elif key.startswith("triton_"):
        raise InvalidArgument(
            f"parameter keys starting with 'triton_' are reserved, got '{key[:100]}'"
        )


def _require(key: str, kind: str | None, *expected: str) -> None:
    if kind not in expected:
        one_of = " or ".join(expected)
        raise InvalidArgument(f"invalid value type for '{key}' parameter, expected {one_of}.")
