"""Leave of a SavedModel's graph what serving it runs.

TensorFlow writes nodes to save, create and read each variable by itself, and functions for
training. It imports all of them, which takes most of the import's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ladle.protos.graphs.checkpoint_ops import RUN_ON_LOADING, functions_of, node_name

# Collections that loading reads; with any other, such as those of TF1's variables, names of nodes
# have to be there that nothing runs.
_KNOWN_COLLECTIONS = frozenset({*RUN_ON_LOADING, "saved_model_assets"})
# TensorFlow may run one function in place of another that has the same value of this attribute.
_INTERFACE = "api_implements"


def prune(meta_graph: Any) -> None:
    """Remove what neither signatures, restoring nor initialising need, from `meta_graph` itself.

    Only what TF2 has written is changed: the graph of an object, which has a saver.
    """
    if not (
        meta_graph.HasField("object_graph_def")
        and meta_graph.saver_def.restore_op_name
        and meta_graph.collection_def.keys() <= _KNOWN_COLLECTIONS
    ):
        return
    graph = meta_graph.graph_def
    nodes = {node.name: node for node in graph.node}
    bodies = {function.signature.name: function for function in graph.library.function}
    names = _needed_nodes(nodes, _asked_for(meta_graph))
    functions = _needed_functions(graph, [nodes[name] for name in names], bodies)
    kept = [node for node in graph.node if node.name in names]
    del graph.node[:]
    graph.node.extend(kept)
    library = [body for name, body in bodies.items() if name in functions]
    del graph.library.function[:]
    graph.library.function.extend(library)
    for gradients in (graph.library.gradient, graph.library.registered_gradients):
        left = [each for each in gradients if each.gradient_func in functions]
        del gradients[:]
        gradients.extend(left)


def _asked_for(meta_graph: Any) -> Iterator[str]:
    """Yield the tensors and nodes that a server runs, feeds or looks at."""
    yield meta_graph.saver_def.restore_op_name
    yield meta_graph.saver_def.filename_tensor_name
    for collection in meta_graph.collection_def.values():
        yield from collection.node_list.value
    for asset in meta_graph.asset_file_def:
        yield asset.tensor_info.name
    for signature in meta_graph.signature_def.values():
        for info in (*signature.inputs.values(), *signature.outputs.values()):
            yield info.name
            yield from (part.name for part in info.composite_tensor.components)
            sparse = info.coo_sparse
            yield sparse.values_tensor_name
            yield sparse.indices_tensor_name
            yield sparse.dense_shape_tensor_name


def _needed_nodes(nodes: Mapping[str, Any], asked_for: Iterable[str]) -> set[str]:
    """Return the names of the nodes that run or have to be there when `asked_for` is run."""
    needed = {node_name(tensor) for tensor in asked_for} & nodes.keys()
    waiting = list(needed)
    while waiting:
        node = nodes[waiting.pop()]
        beside = node.attr["_class"].list.s if "_class" in node.attr else ()
        for name in (
            *map(node_name, node.input),
            *(group.decode().removeprefix("loc:@") for group in beside),
        ):
            if name in nodes and name not in needed:
                needed.add(name)
                waiting.append(name)
    return needed


def _needed_functions(graph: Any, nodes: Iterable[Any], bodies: Mapping[str, Any]) -> set[str]:
    """Return the names of the functions that `nodes` call, and those that may run in their place.

    So are those that these call in turn, and their gradients.
    """
    gradients = {each.function_name: each.gradient_func for each in graph.library.gradient}
    waiting = {function for node in nodes for function in functions_of(node, bodies)}
    waiting |= {name for name, body in bodies.items() if _INTERFACE in body.attr}
    needed = set[str]()
    while waiting:
        name = waiting.pop()
        if name in needed or name not in bodies:
            continue
        needed.add(name)
        for node in bodies[name].node_def:
            waiting.update(functions_of(node, bodies))
        waiting.update({gradients[name]} if name in gradients else ())
    return needed
