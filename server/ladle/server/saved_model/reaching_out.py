"""What a graph does outside of itself: operations that reach files, and calls into Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ladle.protos.graphs.operations import reaching_out
from ladle.server.core.errors import FailedPrecondition
from ladle.server.core.servable import Signature
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.graph_walk import GraphWalk

logger = logging.getLogger(__name__)

_PYTHON_OPS = frozenset(("PyFunc", "PyFuncStateless", "EagerPyFunc"))
# They fill tables, as nearly all do that are there, from files that the version brings.
_ASSET_OPS = frozenset(("InitializeTableFromTextFile", "InitializeTableFromTextFileV2"))


def warn_of_reaching_out(servable_id: ServableId, meta_graph: Any) -> None:
    """Log which operations of a graph can read or write files, or call Python, if any."""
    found = reaching_out(meta_graph)
    if meta_graph.asset_file_def:
        found -= _ASSET_OPS
    if found:
        logger.warning(
            "the graph can read or write files or run Python, as the user that the server runs as "
            "model=%s version=%d operations=%s",
            *servable_id,
            ",".join(sorted(found)),
        )


def without_python(
    servable_id: ServableId, signatures: Mapping[str, Signature], graph_def: Any
) -> dict[str, Signature]:
    """Return the signatures that call no Python function, which a SavedModel does not hold.

    The others, whose requests would all fail, are left out with a line in the log.

    Raises:
        FailedPrecondition: There are signatures, and all of them call one.
    """
    walk = GraphWalk(graph_def)
    calls = {
        name: next((node.op for node in walk.nodes(s) if node.op in _PYTHON_OPS), "")
        for name, s in signatures.items()
    }
    kept = {name: signature for name, signature in signatures.items() if not calls[name]}
    if signatures and not kept:
        raise FailedPrecondition(
            f"its signatures call Python functions of the program that saved it "
            f"({', '.join(sorted(set(calls.values())))}), and a SavedModel does not hold them: "
            "write them with TensorFlow's operations"
        )
    for name in signatures.keys() - kept.keys():
        logger.warning(
            "signature left out model=%s version=%d signature=%s reason=it calls a Python function "
            "of the program that saved it (%s), which a SavedModel does not hold",
            *servable_id,
            name,
            calls[name],
        )
    return kept
