"""Which signatures change something that outlives a run, or draw random numbers.

Found by walking the graph from each signature's outputs, through the functions that it calls.
TensorFlow marks operations that have state. The marked operations below only read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from ladle.server.core.servable import Signature

OpDef: TypeAlias = Any
"""A `tensorflow.OpDef`."""
FindOpDef: TypeAlias = "Callable[[str], OpDef | None]"
"""Returns the definition of an operation, by its name."""

_RESOURCE = 20
# They make or read a variable or a table, pass a reference on, check, or call functions, which are
# walked through. What TensorArrays and stacks hold is gone at the end of the run.
_HARMLESS = re.compile(
    r"""
    VarHandleOp | Variable(V2)? | ReadVariableOp | ResourceGather(Nd)? | VariableShape
    | VarIsInitializedOp | IsVariableInitialized
    | (Anonymous)?HashTable(V2)? | Mutable(Dense)?HashTable(OfTensors)?(V2)?
    | LookupTable(Find|Size|Export)(V2)?
    | Ref(Identity|Enter|Exit|Switch|Merge|Select|NextIteration)
    | Assert | If | While | Case | StatefulPartitionedCall
    | TensorArray(Write|Read|Gather|Scatter|Size|Concat|Split|Close)?(V2|V3)?
    | Stack(Push|Pop|Close)?(V2)?
    | BoostedTrees(EnsembleResourceHandleOp|Predict)
    | TensorForestTree(ResourceHandleOp|Predict)
    | Sentencepiece(Op|TokenizeOp|DetokenizeOp|VocabSizeOp|IdToStringOp|StringToIdOp)
    | SimpleML(CreateModelResource|Inference(LeafIndex)?Op(WithHandle)?)
    """,
    re.VERBOSE,
)
# They run Python or write files without being marked.
_HARMFUL = frozenset(("PyFunc", "PyFuncStateless", "EagerPyFunc", "WriteFile"))


def with_state(
    signatures: Mapping[str, Signature], graph_def: Any, find_op_def: FindOpDef
) -> dict[str, Signature]:
    """Return the signatures, each with the reason why its requests must run once, if there is one.

    Args:
        signatures: of one graph.
        graph_def: that graph, a `tensorflow.GraphDef`.
        find_op_def: returns what TensorFlow knows of an operation.
    """
    walk = _Walk(graph_def, find_op_def)
    return {
        name: replace(signature, stateful=walk.reason(signature))
        for name, signature in signatures.items()
    }


class _Walk:
    def __init__(self, graph_def: Any, find_op_def: FindOpDef) -> None:
        self._find_op_def = find_op_def
        self._nodes = {node.name: node for node in graph_def.node}
        self._functions = {f.signature.name: f for f in graph_def.library.function}
        self._verdicts: dict[str, bool] = {}

    def reason(self, signature: Signature) -> str:
        """Return why requests to a signature must run once; empty if they need not."""
        fed = {_tensor(spec.feed_name) for spec in signature.inputs.values()}
        waiting = [_tensor(spec.feed_name) for spec in signature.outputs.values()]
        seen: set[str] = set()
        called: set[str] = set()
        while waiting:
            tensor = waiting.pop()
            name = tensor.partition(":")[0]
            if tensor in fed or name in seen or name not in self._nodes:
                continue
            seen.add(name)
            node = self._nodes[name]
            if self._is_stateful(node.op):
                return _because(node)
            called.update(self._called(node))
            waiting += [_tensor(i) for i in node.input]
        return self._of_functions(called)

    def _of_functions(self, called: Iterable[str]) -> str:
        waiting = list(called)
        seen = set(waiting)
        while waiting:
            for node in self._functions[waiting.pop()].node_def:
                if self._is_stateful(node.op):
                    return _because(node)
                for function in self._called(node):
                    if function not in seen:
                        seen.add(function)
                        waiting.append(function)
        return ""

    def _called(self, node: Any) -> Iterator[str]:
        if node.op in self._functions:
            yield node.op
        for value in node.attr.values():
            if value.HasField("func"):
                names = [value.func.name]
            elif value.HasField("list"):
                names = [function.name for function in value.list.func]
            else:
                continue
            yield from (name for name in names if name in self._functions)

    def _is_stateful(self, op: str) -> bool:
        if op not in self._verdicts:
            self._verdicts[op] = (
                not _HARMLESS.fullmatch(op)
                and op not in self._functions
                and (op in _HARMFUL or _has_state(self._find_op_def(op)))
            )
        return self._verdicts[op]


def _has_state(definition: OpDef | None) -> bool:
    if definition is None:  # nobody knows what it does
        return True
    return bool(definition.is_stateful) or any(
        arg.is_ref or arg.type == _RESOURCE for arg in definition.input_arg
    )


def _because(node: Any) -> str:
    return f"the graph has state that each run may change or use: operation {node.op} {node.name!r}"


def _tensor(name: str) -> str:
    """Return a tensor's name in full, as `node:0`; of a control input, the node's name."""
    if name.startswith("^"):
        return name[1:]
    return name if ":" in name else f"{name}:0"
