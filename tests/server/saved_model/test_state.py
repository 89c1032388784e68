"""What of a graph outlives a run, found from the outputs of each signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.saved_model.runtime import find_op_def, tensorflow
from ladle.server.saved_model.state import with_state

pytestmark = pytest.mark.e2e

Build = Callable[[Any, Any], Any]
"""Returns the output that is made of the input."""


def reason(build: Build) -> str:
    """Return what the walk says of a graph with one input `x` and one output."""
    tf = tensorflow()
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None], "x")
        y = build(tf, x)
        signature = Signature(
            "s", {"x": TensorSpec(1, (-1,), "x:0")}, {"y": TensorSpec(1, (-1,), y.name)}
        )
        (found,) = with_state({"s": signature}, graph.as_graph_def(), find_op_def).values()
    return found.stateful


def resource_variable(tf: Any, x: Any) -> Any:
    return tf.compat.v1.get_variable("v", [], use_resource=True) + x


def table(tf: Any) -> Any:
    return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.float32)


def find(tf: Any, handle: Any) -> Any:
    return tf.raw_ops.LookupTableFindV2(
        table_handle=handle, keys=tf.constant(["a"]), default_value=tf.constant(0.0)
    )


def in_function(build: Build) -> Build:
    def built(tf: Any, x: Any) -> Any:
        def inner(x: Any) -> Any:
            return tf.function(lambda x: build(tf, x))(x) * 2

        return tf.function(inner)(x)

    return built


def after(operation: Build) -> Build:
    def built(tf: Any, x: Any) -> Any:
        with tf.control_dependencies([operation(tf, x)]):
            return tf.identity(x)

    return built


def unrelated(operation: Build) -> Build:
    def built(tf: Any, x: Any) -> Any:
        operation(tf, x)
        return x * 2

    return built


def insert(tf: Any, x: Any) -> Any:
    return tf.raw_ops.LookupTableInsertV2(
        table_handle=table(tf), keys=tf.constant(["a"]), values=x[:1]
    )


def assign(tf: Any, x: Any) -> Any:
    variable = tf.compat.v1.get_variable("v", [], use_resource=True)
    return variable.assign_add(tf.reduce_sum(x)).op


def assign_ref(tf: Any, x: Any) -> Any:
    variable = tf.compat.v1.get_variable("v", [], use_resource=False)
    return tf.compat.v1.assign_add(variable, tf.reduce_sum(x))


def loop(tf: Any, x: Any) -> Any:
    tf.compat.v1.disable_control_flow_v2()
    try:
        return tf.compat.v1.while_loop(
            lambda i, y: i < 3,
            lambda i, y: (i + 1, y + tf.random.uniform([])),
            [tf.constant(0), tf.reduce_sum(x)],
        )[1]
    finally:
        tf.compat.v1.enable_control_flow_v2()


@pytest.mark.parametrize(
    ("build", "operation"),
    [
        (after(assign), "AssignAddVariableOp"),
        (after(assign_ref), "AssignAdd"),
        (after(insert), "LookupTableInsertV2"),
        (lambda tf, x: x + tf.random.uniform([]), "RandomUniform"),
        (lambda tf, x: tf.random.shuffle(x), "RandomShuffle"),
        (lambda tf, x: x + tf.cast(tf.raw_ops.Timestamp(), tf.float32), "Timestamp"),
        (lambda tf, x: tf.compat.v1.py_func(lambda x: x, [x], tf.float32), "PyFunc"),
        (
            lambda tf, x: tf.compat.v1.py_func(lambda x: x, [x], tf.float32, stateful=False),
            "PyFuncStateless",
        ),
        (lambda tf, x: tf.py_function(lambda x: x, [x], tf.float32), "EagerPyFunc"),
        (after(lambda tf, x: tf.io.write_file("/nowhere", "x")), "WriteFile"),
        (in_function(lambda tf, x: x + tf.random.uniform([])), "RandomUniform"),
        (
            lambda tf, x: tf.map_fn(lambda e: e + tf.random.uniform([]), x),
            "RandomUniform",
        ),
        (
            lambda tf, x: tf.cond(x[0] > 0, lambda: x + tf.random.uniform([]), lambda: x),
            "RandomUniform",
        ),
        (loop, "RandomUniform"),
    ],
)
def test_what_writes_or_draws_is_found(build: Build, operation: str) -> None:
    assert f"operation {operation} " in reason(build)


@pytest.mark.parametrize(
    "build",
    [
        lambda tf, x: x * 2,
        resource_variable,
        lambda tf, x: tf.compat.v1.get_variable("v", [], use_resource=False) + x,
        lambda tf, x: find(tf, table(tf)),
        after(lambda tf, x: tf.debugging.assert_positive(x)),
        lambda tf, x: tf.map_fn(lambda e: e * 2, x),
        lambda tf, x: tf.cond(x[0] > 0, lambda: x, lambda: -x),
        in_function(lambda tf, x: x * 2),
        lambda tf, x: x + tf.random.stateless_uniform([], seed=[1, 2]),
        unrelated(assign),
        unrelated(insert),
    ],
)
def test_what_reads_or_is_not_reached_is_harmless(build: Build) -> None:
    assert reason(build) == ""


def test_what_makes_an_input_is_not_run() -> None:
    """A TF1 model may be fed in the middle of its graph."""
    tf = tensorflow()
    with tf.Graph().as_default() as graph:
        drawn = tf.random.uniform([3])
        y = drawn * 2
        signature = Signature(
            "s", {"x": TensorSpec(1, (-1,), drawn.name)}, {"y": TensorSpec(1, (-1,), y.name)}
        )
        found = with_state({"s": signature}, graph.as_graph_def(), find_op_def)
    assert found["s"].stateful == ""


def test_an_operation_that_nobody_knows_may_have_state() -> None:
    tf = tensorflow()
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None], "x")
        y = tf.identity(x, "y")
        definition = graph.as_graph_def()
        signature = Signature(
            "s", {"x": TensorSpec(1, (-1,), "x:0")}, {"y": TensorSpec(1, (-1,), y.name)}
        )
    definition.node[-1].op = "Unheard"
    found = with_state({"s": signature}, definition, find_op_def)
    assert "operation Unheard 'y'" in found["s"].stateful
