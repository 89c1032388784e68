"""Inputs with too few dimensions for kernels that would end the process.

Each runs in a process of its own, so that a failure here is a failure and not the end of the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.saved_model.ranks import needs_all_dimensions
from ladle.server.saved_model.servable import refuse_missing_dimensions

DT_DOUBLE = 2
PREDICT = """
import sys
from pathlib import Path

import numpy as np

from ladle.server.core.errors import ServingError
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model
from ladle.server.saved_model.runtime import tensorflow

tf = tensorflow()
graph = tf.Graph()
with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
    x = tf.compat.v1.placeholder(tf.float32, None, "x")
    y = tf.nn.conv2d(x, tf.ones((2, 2, 3, 1)), 1, "SAME")
    definition = tf.compat.v1.saved_model.predict_signature_def({"x": x}, {"y": y})
    for size in (-1, 4, 4, 3):
        definition.inputs["x"].tensor_shape.dim.add(size=size)
    definition.inputs["x"].tensor_shape.unknown_rank = False
    builder = tf.compat.v1.saved_model.Builder(sys.argv[1])
    builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": definition})
    builder.save()
servable = load_saved_model(ServableId("m", 1), Path(sys.argv[1]), LoadOptions())
signature = servable.signatures["serving_default"]
for shape in ((4, 4, 3), (3,), (), (1, 4, 4, 3)):
    try:
        made = servable.run(signature, {"x": np.ones(shape, np.float32)}, ("y",))
        print(made["y"].shape)
    except ServingError as error:
        print(error.code.name, error.message)
"""


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_too_few_dimensions_are_an_error_and_not_the_end_of_the_server(
    tmp_path: Path, onednn: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, str(tmp_path / "1")],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = "INVALID_ARGUMENT input 'x': expected float32 [-1, 4, 4, 3], got shape"
    assert done.stdout.splitlines() == [
        f"{expected} [4, 4, 3]",
        f"{expected} [3]",
        f"{expected} []",
        "(1, 4, 4, 1)",
    ]


class Node:
    """A node, or a function, or a graph, as far as it is looked at."""

    def __init__(self, op: str = "", **parts: Any) -> None:
        self.op = op
        vars(self).update(parts)


@pytest.mark.parametrize(
    ("nodes", "in_function", "needed"),
    [
        (["MatMul"], ["Relu"], False),
        (["MatMul", "Conv2D"], [], True),
        (["PartitionedCall"], ["DepthwiseConv2dNative"], True),
    ],
)
def test_graphs_and_their_functions_are_looked_through(
    nodes: list[str], in_function: list[str], needed: bool
) -> None:
    function = Node(node_def=[Node(op) for op in in_function])
    graph = Node(node=[Node(op) for op in nodes], library=Node(function=[function]))
    assert needs_all_dimensions(graph) is needed


@pytest.mark.parametrize("declared", [None, (), (2,), (-1, 3), (3, 3)])
def test_what_has_as_many_dimensions_as_declared_or_more_is_left_to_the_model(
    declared: tuple[int, ...] | None,
) -> None:
    refuse_missing_dimensions(_signature(declared), {"x": np.ones((2, 2))})


def test_a_missing_dimension_is_told_with_what_was_declared() -> None:
    with pytest.raises(InvalidArgument, match=r"expected float64 \[-1, 3\], got shape \[3\]"):
        refuse_missing_dimensions(_signature((-1, 3)), {"x": np.ones(3)})


def _signature(declared: tuple[int, ...] | None) -> Signature:
    return Signature(name="s", inputs={"x": TensorSpec(DT_DOUBLE, declared)}, outputs={})
