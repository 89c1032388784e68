"""Inputs with fewer dimensions than declared, which can end the process in some kernels."""

from __future__ import annotations

from typing import Any

from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable import Arrays, Signature

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


def refuse_missing_dimensions(signature: Signature, inputs: Arrays) -> None:
    """See that no input has fewer dimensions than the signature declares.

    Raises:
        InvalidArgument: One has.
    """
    for alias, spec in signature.inputs.items():
        shape = inputs[alias].shape
        if spec.shape is not None and len(shape) < len(spec.shape):
            raise InvalidArgument(f"input {alias!r}: expected {spec}, got shape {list(shape)}")
