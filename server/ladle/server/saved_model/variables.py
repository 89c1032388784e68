"""Which variables of a loaded graph have no value, though a signature reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ladle.server.core.servable import Signature
from ladle.server.saved_model.runtime import tensorflow

_RESOURCE_VARIABLES = frozenset({"VarHandleOp"})
_REF_VARIABLES = frozenset({"Variable", "VariableV2"})


def without_value(session: Any, signatures: Iterable[Signature]) -> list[str]:
    """Return the names of the variables that the signatures read and that nothing has set.

    A session restores what the graph's saver names. Some programs save variables that the saver
    does not name (`tf.saved_model.save` of a Keras 3 model is one): every request would fail.

    Args:
        session: holds the graph, restored and initialised.
        signatures: all that requests can call.
    """
    answers = [spec for s in signatures for spec in s.outputs.values() if not spec.unanswerable]
    outputs = {spec.feed_name for spec in answers}
    reachable = _reachable(session.graph, outputs)
    variables = [op for op in reachable if op.type in _RESOURCE_VARIABLES]
    refs = [op for op in reachable if op.type in _REF_VARIABLES]
    if not variables and not refs:
        return []
    tf = tensorflow()
    with session.graph.as_default():
        checks = [tf.raw_ops.VarIsInitializedOp(resource=op.outputs[0]) for op in variables]
        checks += [tf.compat.v1.is_variable_initialized(op.outputs[0]) for op in refs]
    have_value = session.run(checks)
    checked = zip([*variables, *refs], have_value, strict=True)
    return sorted(op.name for op, has_value in checked if not has_value)


def _reachable(graph: Any, outputs: Iterable[str]) -> list[Any]:
    """Return the operations that the named tensors depend on, each once."""
    waiting = [graph.get_tensor_by_name(name).op for name in outputs]
    seen = set(waiting)
    while waiting:
        op = waiting.pop()
        for needed in (*(tensor.op for tensor in op.inputs), *op.control_inputs):
            if needed not in seen:
                seen.add(needed)
                waiting.append(needed)
    return list(seen)
