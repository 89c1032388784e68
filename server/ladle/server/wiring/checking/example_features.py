"""Which features a graph reads from serialized Examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ladle.protos import dtypes
from ladle.protos.tensorflow_pb import Example, TensorProto
from ladle.protos.tensors import shape_of, to_array

_PARSERS = frozenset(("ParseExample", "ParseExampleV2", "ParseSingleExample"))


class Feature(NamedTuple):
    """What one feature of an Example holds."""

    data_type: int
    """DT_FLOAT, DT_INT64 or DT_STRING."""
    size: int
    """How many values there are; a size that is open counts as one."""


Features = Mapping[str, Feature]
"""Features by name."""


def example_features(graph_def: Any) -> list[Features]:
    """Return the features of each operation that parses Examples, functions included.

    Args:
        graph_def: a `tensorflow.GraphDef`.
    """
    found: list[Features] = []
    for nodes in (graph_def.node, *(f.node_def for f in graph_def.library.function)):
        by_name = {node.name: node for node in nodes}
        for node in nodes:
            if node.op in _PARSERS:
                features = _features(node, by_name)
                if features and features not in found:
                    found.append(features)
    return found


def read_example_features(folder: Path, tags: Iterable[str]) -> list[Features]:
    """Return the same for the graph with these tags of a SavedModel; empty where there is none.

    Raises:
        ValueError: It can't be parsed.
        OSError: It can't be read.
    """
    from google.protobuf import text_format
    from tensorflow.core.protobuf import saved_model_pb2

    try:
        model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    except FileNotFoundError:
        try:
            text = (folder / "saved_model.pbtxt").read_bytes()
        except FileNotFoundError:
            return []
        model = text_format.Parse(text, saved_model_pb2.SavedModel())
    for meta_graph in model.meta_graphs:
        if set(meta_graph.meta_info_def.tags) == set(tags):
            return example_features(meta_graph.graph_def)
    return []


def make_example(features: Features, text: bytes) -> Example:
    """Return an Example whose numbers are zero and whose strings are `text`."""
    example = Example()
    for name, (data_type, size) in features.items():
        made = example.features.feature[name]
        if data_type == dtypes.STRING:
            made.bytes_list.value.extend([text] * size)
        elif dtypes.name(data_type) == "int64":
            made.int64_list.value.extend([0] * size)
        else:
            made.float_list.value.extend([0.0] * size)
    return example


def _features(node: Any, nodes: Mapping[str, Any]) -> dict[str, Feature]:
    attributes = node.attr
    sparse_types = attributes["sparse_types"].list.type
    dense_types = attributes["Tdense"].list.type
    dense_sizes = [_size(shape) for shape in attributes["dense_shapes"].list.shape]
    ragged_types = attributes["ragged_value_types"].list.type
    match node.op:
        case "ParseSingleExample":  # has its keys in attributes
            sparse = [key.decode() for key in attributes["sparse_keys"].list.s]
            dense = [key.decode() for key in attributes["dense_keys"].list.s]
            ragged: list[str] = []
        case "ParseExample":  # has an input for each key
            end_of_sparse = 2 + len(sparse_types)
            end_of_dense = end_of_sparse + len(dense_types)
            sparse = [k for name in node.input[2:end_of_sparse] for k in _texts(name, nodes)]
            dense = [k for n in node.input[end_of_sparse:end_of_dense] for k in _texts(n, nodes)]
            ragged = []
        case _:
            sparse, dense, ragged = (_texts(name, nodes) for name in node.input[2:5])
    return {
        **_named(sparse, sparse_types, [1] * len(sparse)),
        **_named(dense, dense_types, dense_sizes),
        **_named(ragged, ragged_types, [1] * len(ragged)),
    }


def _named(
    names: Iterable[str], data_types: Iterable[int], sizes: Iterable[int]
) -> dict[str, Feature]:
    names = list(names)
    data_types = list(data_types)
    if len(names) != len(data_types):  # one is no constant, so nobody knows it before a run
        return {}
    together = zip(names, data_types, sizes, strict=True)
    return {name: Feature(data_type, size) for name, data_type, size in together}


def _size(shape: Any) -> int:
    size = 1
    for side in shape_of(shape) or ():
        size *= max(side, 1)
    return size


def _texts(name: str, nodes: Mapping[str, Any]) -> list[str]:
    """Return the strings of a constant; empty where the input is something else."""
    node = nodes.get(name.partition(":")[0])
    if node is None or node.op != "Const":
        return []
    tensor = TensorProto.FromString(node.attr["value"].tensor.SerializeToString())
    if tensor.dtype != dtypes.STRING:
        return []
    return [text.decode(errors="replace") for text in to_array(tensor).ravel()]
