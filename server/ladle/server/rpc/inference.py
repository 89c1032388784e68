"""What Classify, Regress and MultiInference share: examples in, one kind of result out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from ladle.protos import dtypes
from ladle.protos.ladle_pb import ExamplesRequest, SerializedInput
from ladle.protos.serving_pb import ModelSpec
from ladle.server.call import Call
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.manager import Manager
from ladle.server.core.servable import (
    DEFAULT_SIGNATURE,
    Arrays,
    Model,
    ServableId,
    Signature,
)
from ladle.server.rpc.examples import read_examples
from ladle.server.rpc.request import acquire, parse, require_model_spec
from ladle.server.rpc.signatures import Run, find, method_name_complaint

R = TypeVar("R", bound=Message)

INPUT = "inputs"
"""The one input of such a signature: serialized Examples, string [-1]."""


@dataclass(frozen=True, kw_only=True)
class Interpretation(Generic[R]):
    """What a signature's method name says of its outputs: classes and scores, or values."""

    kind: str
    """`classification` or `regression`, for messages."""
    method_name: str
    outputs: Callable[[Signature], tuple[str, ...]]
    """Returns the outputs to fetch; InvalidArgument where a signature lacks them."""
    result: Callable[[Arrays, int], R]
    """Makes the result of the outputs for so many examples; InvalidArgument where they are off."""

    def plan(
        self, servable: Model, signature_name: str, sent: SerializedInput, *, strict: bool
    ) -> Run:
        """Return what to run for a Classify or Regress request.

        Raises:
            ServingError: The request does not fit the model.
        """
        name = signature_name or DEFAULT_SIGNATURE
        signature = find(servable, name)
        if signature is None:
            raise InvalidArgument(
                f"No signature was found with the name: {name}. "
                f"The model has {sorted(servable.signatures)}"
            )
        outputs = self.check(signature, strict=strict)
        return Run(signature, {INPUT: read_examples(sent)}, outputs)

    def check(self, signature: Signature, *, strict: bool) -> tuple[str, ...]:
        """Return the outputs to fetch, after upstream's checks of the signature.

        Args:
            signature: what the request names.
            strict: whether its method_name has to be this one.

        Raises:
            InvalidArgument: It can't be read in this way.
        """
        complaint = method_name_complaint(signature, self.kind, self.method_name)
        if strict and complaint:
            raise InvalidArgument(complaint)
        if len(signature.inputs) != 1:
            raise InvalidArgument(
                f"Expected one input Tensor. Signature {signature.name!r} has "
                f"{len(signature.inputs)}: {list(signature.inputs)}"
            )
        declared = signature.inputs.get(INPUT)
        if declared is None:
            raise InvalidArgument(
                f"No {self.kind} inputs found in SignatureDef: signature {signature.name!r} "
                f"expected to have the input {INPUT!r}, has {list(signature.inputs)}"
            )
        if declared.data_type != dtypes.STRING:
            raise InvalidArgument(
                f"signature {signature.name!r}: expected an input of serialized Examples, "
                f"string [-1], the model has {declared}"
            )
        return self.outputs(signature)


class ExampleMethod(Generic[R]):
    """Answers Classify or Regress requests; thread-safe."""

    def __init__(
        self,
        manager: Manager,
        interpretation: Interpretation[R],
        request_name: str,
        respond: Callable[[R, ModelSpec], bytes],
        *,
        check_method_names: bool,
    ) -> None:
        """`respond` serializes the response of a result and the `model_spec` that goes with it."""
        self._manager = manager
        self._interpretation = interpretation
        self._request_name = request_name
        self._respond = respond
        self._check_method_names = check_method_names

    def __call__(self, call: Call) -> bytes:
        """Return the serialized response.

        Checks come in upstream's order: model, signature, its structure, examples, outputs.
        """
        interpretation = self._interpretation
        request = parse(ExamplesRequest, call.request, self._request_name)
        require_model_spec(request)
        name = request.model_spec.signature_name
        with acquire(self._manager, request.model_spec, call.deadline) as handle:
            run = interpretation.plan(
                handle.servable, name, request.input, strict=self._check_method_names
            )
            outputs = handle.servable.run(*run, call.deadline)
            result = interpretation.result(outputs, len(run.inputs[INPUT]))
            return self._respond(result, served(handle.id, name))


def served(servable_id: ServableId, signature_name: str) -> ModelSpec:
    """Return the `model_spec` of a response: what has answered."""
    spec = ModelSpec(name=servable_id.name, signature_name=signature_name or DEFAULT_SIGNATURE)
    spec.version.value = servable_id.version
    return spec
