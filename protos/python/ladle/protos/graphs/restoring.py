"""Tell from a SavedModel's graph alone what restoring and initialising it do.

Restoring runs one operation, which the graph's saver names. Its variables are those that an
assignment sets on the way to that operation. Only what is certain counts: where branches of the
graph may not run, or something is destroyed, nothing does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ladle.protos.graphs.checkpoint_ops import CALLS, RUN_ON_LOADING, node_name

_ASSIGNMENTS = frozenset({"AssignVariableOp", "Assign"})
_VARIABLES = frozenset({"VarHandleOp", "Variable", "VariableV2"})
_UNCERTAIN = frozenset(
    {"Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "DestroyResourceOp"}
)
# TensorFlow writes restoring as one function.
_MAX_DEPTH = 4
_INITIALISER = "__saved_model_init_op"
"""The key of TF2's initialiser, among the signatures and in that signature's outputs."""


def restored_variables(meta_graph: Any) -> set[str]:
    """Return the names of the variables, as nodes of the graph, that restoring surely sets."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    functions = {f.signature.name: f for f in meta_graph.graph_def.library.function}
    restoring = _Restoring(functions)
    targets = restoring.targets(nodes, [meta_graph.saver_def.restore_op_name], _MAX_DEPTH)
    names = map(node_name, targets)
    return {name for name in names if name in nodes and nodes[name].op in _VARIABLES}


def initialises(meta_graph: Any) -> bool:
    """Whether initialising runs anything, as filling tables; False only where that is certain.

    TF2 writes an initialiser for each model, which does nothing for most.
    """
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    run = [name for key in RUN_ON_LOADING for name in _collected(meta_graph, key)]
    if _INITIALISER in meta_graph.signature_def:
        signature = meta_graph.signature_def[_INITIALISER]
        run += [info.name for info in signature.outputs.values()]
    return not all(name in nodes and _is_idle(nodes[name]) for name in map(node_name, run))


def _collected(meta_graph: Any, key: str) -> Iterable[str]:
    if key not in meta_graph.collection_def:
        return ()
    return meta_graph.collection_def[key].node_list.value or ("",)  # of another kind: uncertain


def _is_idle(node: Any) -> bool:
    return node.op == "NoOp" and not node.input


class _Restoring:
    def __init__(self, functions: Mapping[str, Any]) -> None:
        self._functions = functions
        self._positions: dict[tuple[str, int], frozenset[int]] = {}

    def targets(self, nodes: Mapping[str, Any], asked_for: Iterable[str], depth: int) -> set[str]:
        """Return what is assigned to when `asked_for` is run: tensors, or a function's arguments.

        `depth` is how many calls deep functions are looked into.
        """
        ran = needed(nodes, asked_for)
        if any(node.op in _UNCERTAIN for node in ran):
            return set()
        targets = {node.input[0] for node in ran if node.op in _ASSIGNMENTS and node.input}
        for node in ran:
            if node.op in CALLS and depth:
                inputs = [tensor for tensor in node.input if not tensor.startswith("^")]
                set_ = self._set_arguments(node.attr["f"].func.name, depth - 1)
                targets |= {tensor for at, tensor in enumerate(inputs) if at in set_}
        return targets

    def _set_arguments(self, name: str, depth: int) -> frozenset[int]:
        """Return which arguments a function assigns to in every run, by their places."""
        function = self._functions.get(name)
        if function is None:
            return frozenset()
        key = name, depth
        if key not in self._positions:
            arguments = function.signature.input_arg
            body = {node.name: node for node in function.node_def}
            asked_for = [*function.ret.values(), *function.control_ret.values()]
            targets = self.targets(body, asked_for, depth)
            is_plain = not any(a.number_attr or a.type_list_attr for a in arguments)
            self._positions[key] = frozenset(
                at for at, argument in enumerate(arguments) if is_plain and argument.name in targets
            )
        return self._positions[key]


def needed(nodes: Mapping[str, Any], asked_for: Iterable[str]) -> list[Any]:
    """Return the nodes that run when `asked_for` is, each once."""
    waiting = [name for name in map(node_name, asked_for) if name in nodes]
    needed = set(waiting)
    while waiting:
        for name in map(node_name, nodes[waiting.pop()].input):
            if name in nodes and name not in needed:
                needed.add(name)
                waiting.append(name)
    return [nodes[name] for name in needed]
