from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from steps import lines_run

from ladle.protos import tensors, wire
from ladle.protos.serving_pb import ModelSpec, PredictRequest
from ladle.protos.tensorflow_pb import TensorProto
from ladle.protos.zero_copy import (
    LEAST_BYTES,
    MOST_FIELDS,
    extract_repeated_bytes,
    extract_tensor_contents,
)

tensor_protos = st.builds(
    TensorProto,
    dtype=st.integers(0, 30),
    version_number=st.integers(-3, 3),
    tensor_content=st.binary(max_size=40),
    float_val=st.lists(st.floats(width=32, allow_nan=False), max_size=3),
    int_val=st.lists(st.integers(-9, 9), max_size=3),
    string_val=st.lists(st.binary(max_size=5), max_size=3),
)
requests = st.builds(
    lambda name, inputs, outputs: PredictRequest(
        model_spec=ModelSpec(name=name), inputs=inputs, output_filter=outputs
    ),
    st.text(max_size=5),
    st.dictionaries(st.text(max_size=5), tensor_protos, max_size=4),
    st.lists(st.text(max_size=4), max_size=3),
)


def put_back(request: bytes, least_bytes: int) -> PredictRequest:
    rest, contents = extract_tensor_contents(request, least_bytes)
    message = PredictRequest.FromString(rest)
    for alias, content in contents.items():
        assert not message.inputs[alias].tensor_content
        message.inputs[alias].tensor_content = bytes(content)
    return message


@given(requests, st.integers(0, 40))
def test_what_is_lifted_and_what_is_left_make_the_whole(
    request: PredictRequest, least_bytes: int
) -> None:
    assert put_back(request.SerializeToString(), least_bytes) == request


@given(
    requests,
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(0, 400),
)
def test_damaged_bytes_are_read_as_protobuf_reads_them(
    request: PredictRequest, changes: list[tuple[int, int]], keep: int
) -> None:
    data = bytearray(request.SerializeToString()[:keep])
    for index, value in changes:
        if index < len(data):
            data[index] = value
    try:
        expected = PredictRequest.FromString(bytes(data))
    except DecodeError:
        with pytest.raises(DecodeError):
            put_back(bytes(data), 0)
    else:
        assert put_back(bytes(data), 0) == expected


@given(st.lists(st.tuples(st.sampled_from("ab"), tensor_protos), max_size=4))
def test_repeated_entries_are_protobufs_business(entries: list[tuple[str, TensorProto]]) -> None:
    data = b"".join(
        wire.join(wire.map_entry(2, key, [proto.SerializeToString()])) for key, proto in entries
    )

    assert put_back(data, 0) == PredictRequest.FromString(data)


def test_a_large_input_is_a_view_of_the_request() -> None:
    image = np.random.default_rng(0).random((100, 1000), np.float32)
    request = PredictRequest()
    request.inputs["large"].CopyFrom(tensors.to_proto(image))
    request.inputs["small"].CopyFrom(tensors.to_proto(image[:1, :1]))
    data = request.SerializeToString()

    rest, contents = extract_tensor_contents(data)

    assert len(rest) < 200
    assert set(contents) == {"large"}
    assert contents["large"].obj is data
    read = tensors.to_array(PredictRequest.FromString(rest).inputs["large"], contents["large"])
    np.testing.assert_array_equal(read, image)
    assert not read.flags.owndata


def test_large_strings_are_read_too() -> None:
    strings = TensorProto(dtype=7, tensor_content=b"\x03\x00abc")
    strings.tensor_shape.dim.add().size = 2

    content = memoryview(strings.tensor_content)
    strings.tensor_content = b""

    assert tensors.to_array(strings, content).tolist() == [b"abc", b""]


@pytest.mark.parametrize("field", [b"\x3a\0", b"\x12\0", b"\x9a\x06\0", b"\x10\1"])
def test_millions_of_fields_are_left_to_protobuf(field: bytes) -> None:
    """One by one, in Python, they take a hundred times as long."""
    large = wire.join(wire.bytes_field(7, [bytes(LEAST_BYTES)]))
    few, many = (large + field * count for count in (2 * MOST_FIELDS, 8 * MOST_FIELDS))

    def read(data: bytes) -> None:
        assert extract_repeated_bytes(data, 7) == (data, [])
        assert extract_tensor_contents(data) == (data, {})

    assert lines_run(read, many) < lines_run(read, few) + 1000


def test_entries_of_many_fields_are_left_to_protobuf() -> None:
    tensor = b"\x10\1" * 100 + wire.join(wire.bytes_field(4, [bytes(LEAST_BYTES)]))
    entries = [wire.join(wire.map_entry(2, str(i), [tensor])) for i in range(MOST_FIELDS // 100)]
    assert len(extract_tensor_contents(entries[0])[1]) == 1
    data = wire.join(entries)
    assert extract_tensor_contents(data) == (data, {})
