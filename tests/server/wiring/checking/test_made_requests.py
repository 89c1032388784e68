"""Requests that nobody has recorded have the shapes and dtypes that a signature declares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.protos import dtypes
from ladle.protos.tensors import to_array
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.wiring.checking.example_features import Feature
from ladle.server.wiring.checking.made_requests import guesses, made_request

FLOAT, INT64 = 1, 9
CLASSIFY = "tensorflow/serving/classify"

sides = st.sampled_from([-1, 1, 2, 3])
specs = st.builds(
    TensorSpec,
    st.sampled_from([FLOAT, INT64, 10, 19, 11, 18, dtypes.STRING]),
    st.none() | st.lists(sides, max_size=4).map(tuple),
)


@settings(deadline=None, max_examples=60)
@given(inputs=st.dictionaries(st.sampled_from("abc"), specs, min_size=1), rows=st.integers(1, 2))
def test_each_input_is_as_declared(inputs: dict[str, TensorSpec], rows: int) -> None:
    signature = Signature("s", inputs, {"y": TensorSpec(FLOAT, (-1,))})
    made = list(guesses(signature, []))
    assert 1 <= len(made) <= 32
    for guess in made:
        log = made_request(signature, guess, rows)
        if log is None:  # many dimensions of 224
            assert guess.side == 224
            continue
        for alias, spec in inputs.items():
            array = to_array(log.predict_log.request.inputs[alias])
            assert array.dtype == dtypes.to_numpy(spec.data_type)
            assert spec.admits(array.shape)
            if spec.shape is None or spec.has_open_rows:
                assert len(array) == rows


def test_examples_have_the_features_that_are_parsed_and_go_as_their_method_takes_them() -> None:
    inputs = {"inputs": TensorSpec(dtypes.STRING, (-1,))}
    signature = Signature("s", inputs, {"scores": TensorSpec(FLOAT, (-1, 2))}, CLASSIFY)
    features = {"x": Feature(FLOAT, 3), "n": Feature(INT64, 1), "t": Feature(dtypes.STRING, 1)}
    log = made_request(signature, next(guesses(signature, [features])), 2)
    assert log is not None
    first, second = log.classify_log.request.input.example_list.examples
    assert first == second
    made = first.features.feature
    assert list(made["x"].float_list.value) == [0, 0, 0]
    assert list(made["n"].int64_list.value) == [0]
    assert list(made["t"].bytes_list.value) == [b"a"]


@pytest.mark.parametrize(
    "spec", [TensorSpec(FLOAT, (1 << 20, 1 << 20)), TensorSpec(20, (-1,)), TensorSpec(99, ())]
)
def test_what_can_not_be_made_is_not_tried(spec: TensorSpec) -> None:
    signature = Signature("s", {"x": spec}, {"y": TensorSpec(FLOAT, (-1,))})
    assert [made_request(signature, guess, 1) for guess in guesses(signature, [])] == [None, None]


def test_a_string_keeps_zeros_at_its_end() -> None:
    inputs = {"x": TensorSpec(dtypes.STRING, (-1,))}
    signature = Signature("s", inputs, {"y": TensorSpec(FLOAT, (-1,))})
    guess = next(guesses(signature, []))._replace(text=b"a\0\0")
    log = made_request(signature, guess, 2)
    assert log is not None
    array = to_array(log.predict_log.request.inputs["x"])
    np.testing.assert_array_equal(array, np.array([b"a\0\0", b"a\0\0"], object))
