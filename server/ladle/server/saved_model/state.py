"""Which signatures change something that outlives a run, or draw random numbers.

Found by walking the graph from each signature's outputs, through the functions that it calls.
TensorFlow marks operations that have state. The marked operations below only read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from ladle.server.core.servable import Signature
from ladle.server.saved_model.graph_walk import GraphWalk

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
    verdicts = _Verdicts(GraphWalk(graph_def), find_op_def)
    return {
        name: replace(signature, stateful=verdicts.reason(signature))
        for name, signature in signatures.items()
    }


class _Verdicts:
    def __init__(self, walk: GraphWalk, find_op_def: FindOpDef) -> None:
        self._walk = walk
        self._find_op_def = find_op_def
        self._verdicts: dict[str, bool] = {}

    def reason(self, signature: Signature) -> str:
        """Return why requests to a signature must run once; empty if they need not."""
        for node in self._walk.nodes(signature):
            if self._is_stateful(node.op):
                return _because(node)
        return ""

    def _is_stateful(self, op: str) -> bool:
        if op not in self._verdicts:
            self._verdicts[op] = (
                not _HARMLESS.fullmatch(op)
                and op not in self._walk.functions
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
