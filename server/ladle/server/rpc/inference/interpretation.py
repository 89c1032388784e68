"""What Classify, Regress and MultiInference share: examples in, one kind of result out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ladle.protos import dtypes, wire
from ladle.protos.ladle_pb import ExamplesRequest, SerializedInput
from ladle.protos.serving_pb import ClassificationResponse, ModelSpec
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import DEFAULT_SIGNATURE, Arrays, Model, Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.inference.examples import read_examples
from ladle.server.rpc.queued import Outputs
from ladle.server.rpc.request import (
    Invocation,
    find_signature,
    method_name_complaint,
    parse,
    require_model_spec,
)

INPUT = "inputs"
"""The one input of such a signature: serialized Examples, string [-1]."""

MESSAGES_AT_ONCE = 4096
"""How many messages of a result are made and serialized at a time.

Python's lock is held meanwhile: a million Examples at once would hold up all other callers for a
second and more. Serialized messages of one type merge by being joined.
"""

# RegressionResponse has the same.
_RESULT = ClassificationResponse.RESULT_FIELD_NUMBER
_MODEL_SPEC = ClassificationResponse.MODEL_SPEC_FIELD_NUMBER


@dataclass(frozen=True, kw_only=True)
class Interpretation:
    """What a signature's method name says of its outputs: classes and scores, or values."""

    kind: str
    """`classification` or `regression`, for messages."""
    method_name: str
    outputs: Callable[[Signature], tuple[str, ...]]
    """Returns the outputs to fetch; InvalidArgument where a signature lacks them."""
    result_field: int
    """The number of the result's field in MultiInference's InferenceResult."""
    result: Callable[[Arrays, int], list[wire.Piece]]
    """Serializes the result of the outputs for so many examples, in pieces.

    InvalidArgument where the outputs are not what the kind has.
    """

    def plan(
        self, servable: Model, signature_name: str, sent: SerializedInput, *, strict: bool
    ) -> Invocation:
        """Return what to run for a Classify or Regress request.

        Raises:
            ServingError: The request does not fit the model.
        """
        name = signature_name or DEFAULT_SIGNATURE
        signature = find_signature(servable, name)
        if signature is None:
            raise InvalidArgument(
                f"No signature was found with the name: {name}. "
                f"The model has {sorted(servable.signatures)}"
            )
        outputs = self.check(signature, strict=strict)
        declared = signature.inputs[INPUT]
        if declared.shape is None:
            signature = replace(signature, inputs={INPUT: of_rows(declared)})
        return Invocation(signature, {INPUT: read_examples(sent)}, outputs)

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


@dataclass(frozen=True, kw_only=True)
class ExamplesMethod:
    """Classify or Regress, as an InferMethod: a parser and an encoder. Thread-safe."""

    path: str
    request_name: str
    """The full name of the request message."""
    interpretation: Interpretation
    """How it reads a model's outputs."""
    check_method_names: bool
    """Whether a signature has to be of this kind."""

    def parse(self, data: bytes, metadata: Callable[[str], str | None]) -> ExamplesRequest:
        """Return the request.

        Raises:
            InvalidArgument: The bytes are no such request, or name no model.
        """
        request = parse(ExamplesRequest, data, self.request_name)
        require_model_spec(request)
        return request

    def model_spec(self, request: ExamplesRequest) -> ModelSpec:
        """Return which model and version the request names."""
        return request.model_spec

    def plan(
        self, model: Model, request: ExamplesRequest
    ) -> tuple[Invocation, Callable[[Outputs, ServableId], bytes]]:
        """Return what to run, and what encodes the response.

        Raises:
            ServingError: The request does not fit the model.
        """
        name = request.model_spec.signature_name
        invocation = self.interpretation.plan(
            model, name, request.input, strict=self.check_method_names
        )
        examples = len(invocation.inputs[INPUT])

        def encode(outputs: Outputs, servable_id: ServableId) -> bytes:
            pieces = wire.bytes_field(_RESULT, self.interpretation.result(outputs, examples))
            spec = served(servable_id, name).SerializeToString()
            return wire.join(pieces + wire.bytes_field(_MODEL_SPEC, [spec]))

        return invocation, encode


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
