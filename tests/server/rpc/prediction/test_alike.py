"""Predict requests that the native transport hands over as one are answered as each by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from server.rpc.prediction.calling import PREDICT, predict_request
from server.rpc.prediction.grouping import (
    Served,
    counted,
    inputs_of,
    making,
)

from ladle.protos.serving_pb import PredictRequest


@pytest.fixture
def make() -> Iterator[Callable[..., Served]]:
    with making(PREDICT.path, PREDICT.read) as make:
        yield make


@pytest.fixture(scope="module")
def both() -> Iterator[list[Served]]:
    """Predict over each transport."""
    with making(PREDICT.path, PREDICT.read) as make:
        yield [make("grpcio"), make("native")]


# What a request may be, right or wrong: each is sent several times with other values.
FLOATS = st.sampled_from([0.0, 1.0, 2.5, -3.0, float("inf"), float("nan")])


@dataclass(frozen=True)
class Kind:
    """Requests that are alike, or nearly."""

    signature: str = ""
    name: str = "m"
    rows: int = 1
    typed: bool = False
    wrong: str = ""
    version: int | None = None
    output: str = ""
    in_content: bool = False

    def request(self, value: float) -> bytes:
        inputs = inputs_of(self.signature, self.rows, value, self.wrong)
        message = PredictRequest()
        message.ParseFromString(
            predict_request(inputs, self.signature, self.name, typed=self.typed)
        )
        if self.version is not None:
            message.model_spec.version.value = self.version
        if self.output:
            message.output_filter.append(self.output)
        first = next(iter(inputs_of(self.signature, self.rows, value)))
        tensor = message.inputs.get(first)
        match self.wrong:
            case "short" if tensor is not None and self.typed:
                del tensor.float_val[1:], tensor.double_val[1:], tensor.int_val[1:]
            case "short" if tensor is not None:
                tensor.tensor_content = tensor.tensor_content[:-1]
            case "another field" if tensor is not None:
                tensor.ClearField("tensor_content")
                tensor.ClearField("float_val")
                tensor.double_val.extend([value] * self.rows)
            case "two fields" if tensor is not None:
                tensor.float_val.extend([value])
            case "no bool" if tensor is not None and tensor.tensor_content and value > 1:
                tensor.tensor_content = b"\2" * len(tensor.tensor_content)
        return message.SerializeToString()

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("ladle-tensor-content", "true"),) if self.in_content else ()


SIGNATURES = ("", "pair", "flags", "counts", "one")
WRONG = (
    "shape",
    "dtype",
    "missing",
    "extra",
    "empty",
    "strings",
    "short",
    "another field",
    "two fields",
    "no bool",
)

KINDS = st.builds(
    Kind,
    signature=st.sampled_from([*SIGNATURES, "none"]),
    name=st.sampled_from(["m", "m", "m", "m", "x", ""]),
    rows=st.integers(1, 3),
    typed=st.booleans(),
    wrong=st.sampled_from(["", "", "", "", *WRONG]),
    version=st.sampled_from([None, None, 1, 2]),
    output=st.sampled_from(["", "", "y", "none"]),
    in_content=st.booleans(),
)


@pytest.mark.parametrize("wrong", ["", *WRONG])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_each_kind_has_the_same_answers_over_both_transports(
    both: list[Served], signature: str, wrong: str
) -> None:
    for typed in (False, True):
        kind = Kind(signature, wrong=wrong, typed=typed)
        requests = [kind.request(value) for value in (1.0, 2.5, -3.0, 0.0)]

        by_grpcio, by_native = (served.outcomes(requests) for served in both)

        assert by_native == by_grpcio


@settings(deadline=None, max_examples=60)
@given(
    traffic=st.lists(
        st.tuples(KINDS, st.lists(FLOATS, min_size=1, max_size=5)), min_size=1, max_size=4
    ),
    order=st.randoms(use_true_random=False),
)
def test_whatever_comes_has_the_same_answers_and_is_counted_alike_over_both_transports(
    both: list[Served], traffic: list[tuple[Kind, list[float]]], order: Any
) -> None:
    sent = [(kind.request(value), kind.metadata) for kind, values in traffic for value in values]
    order.shuffle(sent)
    requests, metadata = [list(column) for column in zip(*sent, strict=True)]

    by_grpcio, by_native = (served.outcomes(requests, metadata=metadata) for served in both)

    assert by_native == by_grpcio
    first, second = (counted(served.metrics) for served in both)
    assert first == second
