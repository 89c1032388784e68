"""What Classify, Regress and MultiInference share: examples in, one kind of result out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from google.protobuf.message import Message

from ladle.protos import dtypes
from ladle.protos.ladle_pb import ExamplesRequest, SerializedInput
from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.lifecycle.manager import Manager
from ladle.server.core.servable import DEFAULT_SIGNATURE, Arrays, Model, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.examples import read_examples
from ladle.server.rpc.queued import QueuedMethod, Respond
from ladle.server.rpc.request import parse, require_model_spec
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
        declared = signature.inputs[INPUT]
        if declared.shape is None:
            signature = replace(signature, inputs={INPUT: of_rows(declared)})
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


def example_method(
    name: str,
    manager: Manager,
    interpretation: Interpretation[R],
    request_name: str,
    respond: Callable[[R, ModelSpec], bytes],
    *,
    check_method_names: bool,
) -> QueuedMethod[ExamplesRequest]:
    """Return the method that answers Classify or Regress requests.

    Args:
        name: of the method.
        manager: where the models are.
        interpretation: how it reads a model's outputs.
        request_name: the full name of its request message.
        respond: serializes the response of a result and the `model_spec` that goes with it.
        check_method_names: whether a signature has to be of this kind.
    """

    def read(data: bytes) -> tuple[ExamplesRequest, ModelSpec]:
        request = parse(ExamplesRequest, data, request_name)
        require_model_spec(request)
        return request, request.model_spec

    def plan(model: Model, request: ExamplesRequest) -> tuple[Run, Respond]:
        signature_name = request.model_spec.signature_name
        run = interpretation.plan(model, signature_name, request.input, strict=check_method_names)
        examples = len(run.inputs[INPUT])

        def response(outputs: Arrays, servable_id: ServableId) -> bytes:
            result = interpretation.result(outputs, examples)
            return respond(result, served(servable_id, signature_name))

        return run, response

    return QueuedMethod(name, manager, read, plan)


def of_rows(declared: TensorSpec) -> TensorSpec:
    """Return an input as requests of Examples fill it, so that their rows can be batched.

    Many TF1 models leave the shape of the tensor that Examples go into open; it is always [-1].
    """
    return replace(declared, shape=(-1,)) if declared.shape is None else declared


def served(servable_id: ServableId, signature_name: str) -> ModelSpec:
    """Return the `model_spec` of a response: what has answered."""
    spec = ModelSpec(name=servable_id.name, signature_name=signature_name or DEFAULT_SIGNATURE)
    spec.version.value = servable_id.version
    return spec
