"""The signatures of a SavedModel that another program wrote, TF1's, with Examples and arrays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ladle.protos import wire
from ladle.protos.ladle_pb import SerializedInput
from ladle.protos.serving_pb import (
    ClassificationResult,
    MultiInferenceRequest,
    MultiInferenceResponse,
    RegressionResult,
)
from ladle.protos.tensorflow_pb import Example
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Model
from ladle.server.core.servable_id import ServableId
from ladle.server.rpc.inference import multi_inference
from ladle.server.rpc.inference.classify import CLASSIFICATION
from ladle.server.rpc.inference.regress import REGRESSION
from ladle.server.saved_model.loading import LoadOptions, load_saved_model

pytestmark = pytest.mark.e2e

ID = ServableId("half_plus_two", 123)


@pytest.fixture(scope="module")
def half_plus_two(shared_models: Path) -> Iterator[Model]:
    servable = load_saved_model(ID, shared_models / "half_plus_two" / "00000123", LoadOptions())
    yield servable
    servable.close()


def examples(*xs: float, feature: str = "x") -> SerializedInput:
    sent = SerializedInput()
    for x in xs:
        example = Example()
        example.features.feature[feature].float_list.value.append(x)
        sent.example_list.examples.append(example.SerializeToString())
    return sent


def test_it_classifies(half_plus_two: Model) -> None:
    run = CLASSIFICATION.plan(half_plus_two, "classify_x_to_y", examples(2, 5), strict=True)
    pieces = CLASSIFICATION.result(half_plus_two.run(*run), 2)
    result = ClassificationResult.FromString(wire.join(pieces))
    assert [c.classes[0].score for c in result.classifications] == [3.0, 4.5]
    assert run.signature.batchable


@pytest.mark.parametrize(("name", "expected"), [("x_to_y", [3, 4.5]), ("x_to_y2", [4, 5.5])])
def test_it_regresses(half_plus_two: Model, name: str, expected: list[float]) -> None:
    run = REGRESSION.plan(half_plus_two, f"regress_{name}", examples(2, 5), strict=True)
    pieces = REGRESSION.result(half_plus_two.run(*run), 2)
    result = RegressionResult.FromString(wire.join(pieces))
    assert [r.value for r in result.regressions] == expected


def test_a_regress_signature_of_arrays_takes_no_examples(
    half_plus_two: Model,
) -> None:
    with pytest.raises(InvalidArgument, match="expected an input of serialized Examples"):
        REGRESSION.plan(half_plus_two, "regress_x2_to_y3", examples(2), strict=True)


def test_it_does_both_in_one_run(half_plus_two: Model) -> None:
    request = MultiInferenceRequest()
    for kind in ("classify", "regress"):
        task = request.tasks.add(method_name=f"tensorflow/serving/{kind}")
        task.model_spec.name = ID.name
        task.model_spec.signature_name = f"{kind}_x_to_y"

    parts, run = multi_inference.plan(half_plus_two, request.tasks, examples(2), strict=True)
    pieces = multi_inference.results_of(parts, half_plus_two.run(*run), 1, ID)
    results = MultiInferenceResponse.FromString(wire.join(pieces)).results

    assert results[0].classification_result.classifications[0].classes[0].score == 3.0
    assert results[1].regression_result.regressions[0].value == 3.0
    assert [np.shape(array) for array in run.inputs.values()] == [(1,)]
