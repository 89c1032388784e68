"""Find checkpoint operations of a SavedModel that run for another reason than loading.

Every SavedModel holds operations that write and read checkpoints. A loader uses them to restore
the version's own variables, from the path that the loader gives; it saves nothing. An operation
that can run in another way, while the version loads or answers, is unexpected: it may read or
overwrite any file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

CHECKPOINT_OPS = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})
"""The operations in question."""

RUN_ON_LOADING = ("saved_model_main_op", "legacy_init_op")
"""TensorFlow's loader runs what these collections name."""
CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def unexpected_checkpoint_ops(meta_graph: Any) -> set[str]:
    """Return the `CHECKPOINT_OPS` that can run for anything but restoring the variables."""
    bodies = {
        function.signature.name: function for function in meta_graph.graph_def.library.function
    }
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    main, functions = _reached(nodes, bodies, _asked_for(meta_graph))
    # What an object of the version can do, TensorFlow's other loader may have it do on loading.
    functions |= _called(meta_graph.object_graph_def.concrete_functions.keys(), bodies)
    found = {node.op for node in main}
    found |= {node.op for name in functions for node in bodies[name].node_def}
    return found & CHECKPOINT_OPS | _unexpected_on_restore(meta_graph, nodes, bodies)


def _asked_for(meta_graph: Any) -> Iterator[str]:
    """Yield the tensors and nodes that requests, and the loader but for restoring, can ask for."""
    for signature in meta_graph.signature_def.values():
        for info in (*signature.outputs.values(), *signature.inputs.values()):
            yield info.name
            yield from (part.name for part in info.composite_tensor.components)
            sparse = info.coo_sparse
            yield from (
                sparse.values_tensor_name,
                sparse.indices_tensor_name,
                sparse.dense_shape_tensor_name,
            )
    for key in RUN_ON_LOADING:
        if key in meta_graph.collection_def:
            yield from meta_graph.collection_def[key].node_list.value


def _unexpected_on_restore(
    meta_graph: Any, nodes: Mapping[str, Any], bodies: Mapping[str, Any]
) -> set[str]:
    """Return the savers that restoring runs and that don't read from the path that it is given."""
    saver = meta_graph.saver_def
    main, functions = _reached(nodes, bodies, [saver.restore_op_name])
    path = {node_name(saver.filename_tensor_name)}
    unexpected = _not_reading(main, nodes, path)
    # A function may read from those of its arguments that are the path wherever it is called;
    # TensorFlow writes restoring as one function, which calls no other to read.
    of_functions: dict[str, set[str]] = {}
    for node in main:
        for name in functions_of(node, bodies):
            given = zip(bodies[name].signature.input_arg, node.input, strict=False)
            called = node.op == name or node.op in CALLS
            paths = {a.name for a, tensor in given if called and _is_path(tensor, nodes, path)}
            of_functions[name] = of_functions.get(name, paths) & paths
    for name in functions:
        for node in bodies[name].node_def:
            of_functions.update((inner, set()) for inner in functions_of(node, bodies))
    for name in functions:
        body = bodies[name].node_def
        inside = {node.name: node for node in body}
        unexpected |= _not_reading(body, inside, of_functions.get(name, set()))
    return unexpected


def _not_reading(ran: Iterable[Any], nodes: Mapping[str, Any], paths: Collection[str]) -> set[str]:
    """Return the savers in `ran` but for those that read from one of `paths`."""
    return {
        node.op
        for node in ran
        if node.op in CHECKPOINT_OPS
        and not (node.op == "RestoreV2" and node.input and _is_path(node.input[0], nodes, paths))
    }


def _is_path(tensor: str, nodes: Mapping[str, Any], paths: Collection[str]) -> bool:
    name = node_name(tensor)
    seen = set[str]()
    while name not in paths and name not in seen and name in nodes:
        seen.add(name)
        node = nodes[name]
        if node.op != "Identity" or not node.input:
            break
        name = node_name(node.input[0])
    return name in paths


def _reached(
    nodes: Mapping[str, Any], bodies: Mapping[str, Any], asked_for: Iterable[str]
) -> tuple[list[Any], set[str]]:
    """Return the nodes of the graph that run when `asked_for` is, and the functions they call."""
    waiting = {node_name(tensor) for tensor in asked_for} & nodes.keys()
    reached = set(waiting)
    functions = set[str]()
    while waiting:
        node = nodes[waiting.pop()]
        functions.update(functions_of(node, bodies))
        named = map(node_name, node.input)
        inputs = {name for name in named if name in nodes and name not in reached}
        reached |= inputs
        waiting |= inputs
    return [nodes[name] for name in reached], _called(functions, bodies)


def _called(functions: Iterable[str], bodies: Mapping[str, Any]) -> set[str]:
    """Return those of `functions` that are there, and all that they call in turn."""
    waiting = bodies.keys() & set(functions)
    called = set(waiting)
    while waiting:
        for node in bodies[waiting.pop()].node_def:
            following = set(functions_of(node, bodies)) - called
            called |= following
            waiting |= following
    return called


def functions_of(node: Any, bodies: Mapping[str, Any]) -> Iterator[str]:
    """Yield the functions that `node` names: as its operation, or in an attribute."""
    if node.op in bodies:
        yield node.op
    for value in node.attr.values():
        match value.WhichOneof("value"):  # most are neither: this is asked of each node of a graph
            case "func":
                named = [value.func]
            case "list":
                named = value.list.func
            case _:
                continue
        yield from (function.name for function in named if function.name in bodies)


def node_name(tensor: str) -> str:
    """Return the node that a tensor's name, or that of a control input, is of."""
    return tensor.removeprefix("^").partition(":")[0]
