"""Graphs in which an input with fewer dimensions than declared can end the process."""

from __future__ import annotations

from typing import Any

# With a tensor of too few dimensions their kernels fail an internal check of TensorFlow, which ends
# the process: oneDNN's convolutions, on whatever processor it is on, and pooling in space.
# Everywhere else a wrong shape is an error, and what a model takes beyond its declaration stays.
_ENDS_THE_PROCESS = frozenset(
    {
        "AvgPool3D",
        "Conv2D",
        "Conv2DBackpropInput",
        "Conv3D",
        "Conv3DBackpropInputV2",
        "DepthwiseConv2dNative",
        "MaxPool3D",
    }
)


def needs_all_dimensions(graph_def: Any) -> bool:
    """Whether the graph, or a function in it, has an operation that no shape may surprise."""
    functions = (function.node_def for function in graph_def.library.function)
    return any(
        node.op in _ENDS_THE_PROCESS for nodes in (graph_def.node, *functions) for node in nodes
    )
