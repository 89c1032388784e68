"""TensorFlow's own reader and writer say what is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from ladle.protos import dtypes, tensors
from ladle.protos.tensorflow_pb import TensorProto

pytestmark = pytest.mark.e2e

tf = pytest.importorskip("tensorflow")

# Its Python reader takes these from tensor_content alone.
NOT_READ_BY_TENSORFLOW = ("float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz")

arrays = hnp.arrays(
    dtype=st.one_of(
        hnp.boolean_dtypes(),
        hnp.integer_dtypes(endianness="="),
        hnp.unsigned_integer_dtypes(endianness="="),
        hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64)),
        hnp.complex_number_dtypes(endianness="="),
    ).filter(lambda dtype: dtype.itemsize <= 16),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)


def upstream(proto: TensorProto) -> Any:
    from tensorflow.core.framework import tensor_pb2

    return tensor_pb2.TensorProto.FromString(proto.SerializeToString())


def ours(proto: Any) -> TensorProto:
    return TensorProto.FromString(proto.SerializeToString())


@settings(deadline=None)
@given(array=arrays, typed=st.booleans())
def test_tensorflow_reads_what_we_write(array: NDArray[Any], typed: bool) -> None:
    read = tf.make_ndarray(upstream(tensors.to_proto(array, typed=typed)))

    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(read, array)


@settings(deadline=None)
@given(array=arrays)
def test_we_read_what_tensorflow_writes(array: NDArray[Any]) -> None:
    read = tensors.to_array(ours(tf.make_tensor_proto(array)))

    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("number", list(dtypes._NUMBERS.values()), ids=dtypes.name)
def test_each_dtype_is_the_one_that_tensorflow_means(number: int) -> None:
    assert np.dtype(tf.dtypes.as_dtype(number).as_numpy_dtype) == dtypes.to_numpy(number)


@pytest.mark.parametrize(
    "array",
    [np.array([1.5, -2.0], dtypes.to_numpy(n)) for n in (14, 19, 24, 25, 26, 27, 28)]
    + [np.array([1, 0, 1], dtypes.to_numpy(n)) for n in (29, 30)]
    + [np.array([[b"a", b"\x00\xff"]], object)],
    ids=lambda array: str(array.dtype),
)
def test_the_rarer_dtypes_agree_with_tensorflow_both_ways(array: NDArray[Any]) -> None:
    for typed in (False, True):
        # TensorFlow's Python reader takes 2- and 4-bit integers from lists alone.
        if array.dtype.name in ("int4", "uint4") and not typed:
            continue
        if array.dtype.name in NOT_READ_BY_TENSORFLOW and typed:
            continue
        read = tf.make_ndarray(upstream(tensors.to_proto(array, typed=typed)))
        assert read.tolist() == array.tolist()
    assert tensors.to_array(ours(tf.make_tensor_proto(array))).tolist() == array.tolist()


@pytest.mark.parametrize("values", [[], [1], [1, 2]])
def test_short_lists_are_filled_as_tensorflow_fills_them(values: list[int]) -> None:
    for number, field in ((1, "float_val"), (3, "int_val"), (9, "int64_val"), (2, "double_val")):
        proto = TensorProto(dtype=number)
        getattr(proto, field).extend(values)
        proto.tensor_shape.dim.add(size=3)
        # The graph's own reader (Tensor::FromProto), not the Python helper.
        with tf.Graph().as_default() as graph:
            constant = graph.create_op(
                "Const",
                [],
                [tf.dtypes.as_dtype(number)],
                attrs={
                    "value": attr(tensor=upstream(proto)),
                    "dtype": attr(type=number),
                },
            )
            with tf.compat.v1.Session(graph=graph) as session:
                expected = session.run(constant.outputs[0])
        np.testing.assert_array_equal(tensors.to_array(proto), expected)


def attr(**fields: Any) -> Any:
    from tensorflow.core.framework import attr_value_pb2

    return attr_value_pb2.AttrValue(**fields)
