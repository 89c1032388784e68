"""Which variables of a loaded graph have no value, though a signature reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ladle.protos.graphs.restoring import needed, restored_variables
from ladle.server.core.servable import Signature
from ladle.server.saved_model.runtime import tensorflow

_RESOURCE_VARIABLE = "VarHandleOp"
_VARIABLES = frozenset({_RESOURCE_VARIABLE, "Variable", "VariableV2"})


def without_value(session: Any, signatures: Iterable[Signature], meta_graph: Any) -> list[str]:
    """Return the names of the variables that the signatures read and that nothing has set.

    A session restores what the graph's saver names. Some programs save variables that the saver
    does not name (`tf.saved_model.save` of a Keras 3 model is one): every request would fail.
    The session is asked only of variables that the graph doesn't show to be restored: asking it
    compiles a part of the graph, which takes a third of a load's time.

    Args:
        session: holds the graph, restored and initialised.
        signatures: all that requests can call.
        meta_graph: the graph, a `tensorflow.MetaGraphDef`.
    """
    answers = [spec for s in signatures for spec in s.outputs.values() if not spec.unanswerable]
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    reachable = needed(nodes, [spec.feed_name for spec in answers])
    read = {node.name for node in reachable if node.op in _VARIABLES}
    uncertain = sorted(read - restored_variables(meta_graph))
    if not uncertain:
        return []
    tf = tensorflow()
    operations = [session.graph.get_operation_by_name(name) for name in uncertain]
    with session.graph.as_default():
        have_value = session.run(
            [
                tf.raw_ops.VarIsInitializedOp(resource=op.outputs[0])
                if op.type == _RESOURCE_VARIABLE
                else tf.compat.v1.is_variable_initialized(op.outputs[0])
                for op in operations
            ]
        )
    return [name for name, has_value in zip(uncertain, have_value, strict=True) if not has_value]
