"""PredictionService.MultiInference: several signatures over the same Examples, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ladle.protos import wire
from ladle.protos.ladle_pb import SerializedInput, TasksRequest
from ladle.protos.serving_pb import (
    InferenceResult,
    InferenceTask,
    ModelSpec,
    MultiInferenceResponse,
)
from ladle.server.core.errors import InvalidArgument, Unimplemented
from ladle.server.core.servable import DEFAULT_SIGNATURE, Arrays, Model, Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.inference.classify import CLASSIFICATION
from ladle.server.rpc.inference.examples import read_examples
from ladle.server.rpc.inference.interpretation import INPUT, Interpretation, of_rows, served
from ladle.server.rpc.inference.regress import REGRESSION
from ladle.server.rpc.queued import Outputs
from ladle.server.rpc.request import Invocation, find_signature, parse

_RESULTS = MultiInferenceResponse.RESULTS_FIELD_NUMBER
_MODEL_SPEC = InferenceResult.MODEL_SPEC_FIELD_NUMBER

_INTERPRETATIONS: dict[str, Interpretation] = {
    interpretation.method_name: interpretation for interpretation in (CLASSIFICATION, REGRESSION)
}


class Part(NamedTuple):
    """One task: how to read its signature, and which of the signature's outputs it needs."""

    interpretation: Interpretation
    signature: Signature
    outputs: tuple[str, ...]

    def alias(self, output: str) -> str:
        """Return what an output is called among those of all parts."""
        return f"{self.signature.name}/{output}"


class MultiInference:
    """PredictionService.MultiInference, as an InferMethod: a result for each task. Thread-safe."""

    path = "/tensorflow.serving.PredictionService/MultiInference"

    def __init__(self, *, check_method_names: bool) -> None:
        """`check_method_names`: whether signatures have to be of the kinds that tasks name."""
        self._check_method_names = check_method_names

    def parse(self, data: bytes, metadata: Callable[[str], str | None]) -> TasksRequest:
        """Return the request.

        Raises:
            InvalidArgument: The bytes are no such request.
        """
        return parse(TasksRequest, data, "tensorflow.serving.MultiInferenceRequest")

    def model_spec(self, request: TasksRequest) -> ModelSpec:
        """Return the first task's, as upstream does; no tasks at all name no model."""
        return request.tasks[0].model_spec if request.tasks else ModelSpec()

    def plan(
        self, model: Model, request: TasksRequest
    ) -> tuple[Invocation, Callable[[Outputs, ServableId], bytes]]:
        """Return the one run for all tasks, and what encodes the response.

        Raises:
            ServingError: A task does not fit the model or the tasks before it.
        """
        strict = self._check_method_names
        parts, invocation = plan(model, request.tasks, request.input, strict=strict)
        examples = len(next(iter(invocation.inputs.values())))

        def encode(outputs: Outputs, servable_id: ServableId) -> bytes:
            return wire.join(results_of(parts, outputs, examples, servable_id))

        return invocation, encode


def plan(
    servable: Model, tasks: Sequence[InferenceTask], sent: SerializedInput, *, strict: bool
) -> tuple[list[Part], Invocation]:
    """Return the tasks checked, and the one run that answers all of them.

    Raises:
        ServingError: A task does not fit the model or the tasks before it.
    """
    parts: list[Part] = []
    for task in tasks:
        if not task.model_spec.name:
            raise InvalidArgument("Found empty model_spec name in a task")
        if task.model_spec.name != tasks[0].model_spec.name:
            raise InvalidArgument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name: "
                f"got {tasks[0].model_spec.name!r} and {task.model_spec.name!r}"
            )
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if any(part.signature.name == name for part in parts):
            raise InvalidArgument(f"Duplicate evaluation of signature: {name}")
        signature = find_signature(servable, name)
        if signature is None:
            raise InvalidArgument(f"Requested signature not found in model graph: {name}")
        interpretation = _INTERPRETATIONS.get(task.method_name)
        if interpretation is None:
            raise Unimplemented(
                f"Unsupported signature method_name: {task.method_name}. "
                f"Expected one of {sorted(_INTERPRETATIONS)}"
            )
        wanted = interpretation.check(signature, strict=strict)
        parts.append(Part(interpretation, signature, wanted))
    return parts, joined(parts, sent)


def joined(parts: Sequence[Part], sent: SerializedInput) -> Invocation:
    """Return one run of all parts, which costs one parse of the Examples where they share it.

    Upstream wants the signatures to share their input tensor, as only TF1 models have it. Here
    the Examples go into each tensor that the signatures have for them.
    """
    examples = read_examples(sent)
    # The same run whatever the order of the tasks, so that their requests share batches.
    parts = sorted(parts, key=lambda part: part.signature.name)
    fed = [part.signature.inputs[INPUT] for part in parts]
    inputs = {spec.feed_name: of_rows(spec) for spec in fed}
    names = tuple(part.signature.name for part in parts)
    outputs = {part.alias(output): part.signature.outputs[output] for part, output in _pairs(parts)}
    # The name tells this run from others where callables and batches are kept; no signature's
    # own name has a null character in it.
    signature = Signature(
        name="\0".join(names),
        inputs=inputs,
        outputs=outputs,
        stateful=next((p.signature.stateful for p in parts if p.signature.stateful), ""),
        parts=names,
    )
    return Invocation(signature, dict.fromkeys(inputs, examples), tuple(outputs))


def results_of(
    parts: Sequence[Part], outputs: Arrays, examples: int, servable_id: ServableId
) -> list[wire.Piece]:
    """Return the serialized response: the result of each part, from the outputs of all.

    Raises:
        InvalidArgument: A part's outputs are not of the shape or dtype that its kind has.
    """
    pieces: list[wire.Piece] = []
    for part in parts:
        own = {output: outputs[part.alias(output)] for output in part.outputs}
        found = part.interpretation.result(own, examples)
        spec = served(servable_id, part.signature.name).SerializeToString()
        result = wire.bytes_field(_MODEL_SPEC, [spec])
        result += wire.bytes_field(part.interpretation.result_field, found)
        pieces += wire.bytes_field(_RESULTS, result)
    return pieces


def _pairs(parts: Iterable[Part]) -> list[tuple[Part, str]]:
    return [(part, output) for part in parts for output in part.outputs]
