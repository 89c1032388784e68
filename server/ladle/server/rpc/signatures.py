"""What requests run: the signature that they name, held to its method name."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from ladle.server.core.errors import FailedPrecondition
from ladle.server.core.servable import Arrays, Model, Signature

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


class Invocation(NamedTuple):
    """What a request comes down to: a signature, arrays for it, and the outputs wanted."""

    signature: Signature
    inputs: Arrays
    outputs: tuple[str, ...]


def find(servable: Model, name: str) -> Signature | None:
    """Return the signature of this name; None where the model declares none.

    Raises:
        FailedPrecondition: The model declares it, but no request can call it.
    """
    signature = servable.signatures.get(name)
    if signature is None and name in servable.signature_defs:
        raise FailedPrecondition(
            f'Serving signature key "{name}" can\'t be called: it declares sparse or composite '
            "tensors, or none at all, and requests carry dense ones"
        )
    return signature


def listed(names: Collection[str]) -> str:
    """Return names as upstream's messages show a set: `{a, b}`."""
    return "{" + ", ".join(sorted(names)) + "}"


def method_name_complaint(signature: Signature, kind: str, *expected: str) -> str | None:
    """Return what `--enable_signature_method_name_check` has against a signature, if anything."""
    if signature.method_name in expected:
        return None
    one_of = expected[0] if len(expected) == 1 else f"one of {listed(expected)}"
    return f"Expected {kind} signature method_name to be {one_of}. Was: {signature.method_name}"
