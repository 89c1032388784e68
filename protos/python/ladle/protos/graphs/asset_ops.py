"""Find operations that fill a lookup table from a file which is not an asset of the version.

A table that is made from a file is saved with the file, in the folder `assets`, and is filled from
there when the version loads. The same operation reads any other file whose path it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from ladle.protos.graphs.checkpoint_ops import CALLS, functions_of, node_name

TABLE_FROM_FILE = "InitializeTableFromTextFileV2"
"""The operation in question: inputs are the table and the file's path."""

# What may use the variable that TensorFlow keeps an asset's path in.
_USES_OF_PATH = ("VarIsInitializedOp", "AssignVariableOp", "ReadVariableOp")


def reads_assets_alone(meta_graph: Any) -> bool:
    """Return whether every table that is filled from a file is filled from an asset."""
    if any(node.op == TABLE_FROM_FILE for node in meta_graph.graph_def.node):
        return False  # TensorFlow writes them into functions
    bodies = {
        function.signature.name: function for function in meta_graph.graph_def.library.function
    }
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    paths = _path_tensors(meta_graph, nodes)
    for name, body in bodies.items():
        places = list(_path_arguments(body))
        if not places:
            continue
        if None in places or any(name in set(functions_of(n, bodies)) for n in _inside(bodies)):
            return False
        callers = [node for node in nodes.values() if name in set(functions_of(node, bodies))]
        for place in places:
            assert place is not None
            if not all(_passes_path(node, name, place, paths) for node in callers):
                return False
            if not _is_bound_to_asset(meta_graph.object_graph_def, name, place):
                return False
    return True


def _path_arguments(body: Any) -> Iterator[int | None]:
    """Yield for each table that `body` fills the argument with the path; None if it is no such."""
    arguments = [argument.name for argument in body.signature.input_arg]
    for node in body.node_def:
        if node.op == TABLE_FROM_FILE:
            path = node.input[1] if len(node.input) > 1 else ""
            yield arguments.index(path) if path in arguments else None


def _inside(bodies: Mapping[str, Any]) -> Iterator[Any]:
    for body in bodies.values():
        yield from body.node_def


def _path_tensors(meta_graph: Any, nodes: Mapping[str, Any]) -> set[str]:
    """Return the nodes that give an asset's path, and nothing else."""
    assets = {
        node_name(asset.tensor_info.name)
        for asset in meta_graph.asset_file_def
        if _is_inside(asset.filename)
    }
    users: dict[str, list[Any]] = {}
    for node in nodes.values():
        for tensor in node.input:
            users.setdefault(node_name(tensor), []).append(node)
    found = set(assets)
    for node in nodes.values():
        if node.op != "VarHandleOp":
            continue
        using = users.get(node.name, [])
        assigned = [user for user in using if user.op == "AssignVariableOp"]
        is_path = assigned and all(node_name(user.input[1]) in assets for user in assigned)
        if is_path and all(user.op in _USES_OF_PATH for user in using):
            found |= {user.name for user in using if user.op == "ReadVariableOp"}
    return found


def _is_inside(filename: str) -> bool:
    path = PurePosixPath(filename)
    return bool(filename) and not path.is_absolute() and ".." not in path.parts


def _passes_path(node: Any, function: str, place: int, paths: set[str]) -> bool:
    is_call = node.op == function or node.op in CALLS
    return is_call and place < len(node.input) and node_name(node.input[place]) in paths


def _is_bound_to_asset(objects: Any, function: str, place: int) -> bool:
    """Return whether TensorFlow's other loader gives `function` an asset in that place, too."""
    if function not in objects.concrete_functions:
        return True
    bound = objects.concrete_functions[function].bound_inputs
    if place >= len(bound) or not 0 <= bound[place] < len(objects.nodes):
        return False
    kind = objects.nodes[bound[place]].WhichOneof("kind")
    return bool(kind == "asset")
