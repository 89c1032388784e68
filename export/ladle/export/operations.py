"""Find operations in a SavedModel that reach out of the graph: to files, or into Python.

A graph is a program, and whoever serves it runs it. TensorFlow's own operations can read any file
that the server can, write others, and call back into Python, so a version that holds one is not
published unless its owner names it. The functions of the graph's library are walked too: that is
where a TF2 model keeps everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ladle.export.errors import CheckError

# Read off the 1,462 operations of TensorFlow 2.21 by name; what those of another release add is
# caught where it follows the same naming. Operations for parsing and decoding, and those that read
# variables and tensor arrays, work on tensors alone.
_REACHES_OUT = re.compile(
    r"""
    (Eager)?PyFunc(Stateless)? | GeneratorDataset
    | ReadFile | WriteFile | (Experimental)?MatchingFiles(Dataset)?
    | (FixedLengthRecord|TextLine|WholeFile|TFRecord|LMDB|Identity)Reader(V\d)? | RecordInput
    | (Experimental)?(TFRecord|TextLine|FixedLengthRecord|CSV|Sql|LMDB|Load|Save|Snapshot|Cache
      |SnapshotChunk|SnapshotNested|ListSnapshotChunks|DataService)Dataset(V\d|Reader)?
    | (Experimental)?DatasetToTFRecord | DistributedSave
    | Save(V2|Slices)? | Restore(V2|Slice)? | MergeV2Checkpoints | LoadAndRemapMatrix
    | GenerateVocabRemapping | InitializeTableFromTextFile(V2)? | ImmutableConst
    | CreateSummary(File|Db)Writer | PrintV2 | Debug\w*(Identity|NumericSummary|NanCount)(V\d)?
    | FileSystemSetConfiguration | GcsConfigure\w+ | Bigtable\w+ | KafkaDataset | \w*Rpc\w*
    """,
    re.VERBOSE,
)
# Every SavedModel brings these to restore its variables, outside what its signatures reach.
_SAVERS = frozenset({"SaveV2", "RestoreV2", "MergeV2Checkpoints"})


def check_operations(folder: Path, allowed: Iterable[str] = ()) -> None:
    """See that no operation of the SavedModel in `folder` reaches out, but for those `allowed`.

    Raises:
        CheckError: One does; the message names all of them.
    """
    from ladle.export.signatures import read_saved_model

    found = set[str]()
    for meta_graph in read_saved_model(folder).meta_graphs:
        found |= reaching_out(meta_graph)
    refused = sorted(found - set(allowed))
    if refused:
        raise CheckError(
            "operations",
            f"the graph holds {', '.join(refused)}, which can read or write files or run Python;"
            f" allow by name: {' '.join(f'--allow-op={name}' for name in refused)}",
        )


def reaching_out(meta_graph: Any) -> set[str]:
    """Return the operations of `meta_graph`, anywhere in it, that reach out."""
    everywhere = {
        node.op
        for nodes in (meta_graph.graph_def.node, *_bodies(meta_graph).values())
        for node in nodes
        if _REACHES_OUT.fullmatch(node.op)
    }
    if not everywhere & _SAVERS:
        return everywhere
    served = set(_served_operations(meta_graph))
    return {name for name in everywhere if name not in _SAVERS or name in served}


def _bodies(meta_graph: Any) -> dict[str, Any]:
    return {
        function.signature.name: function.node_def
        for function in meta_graph.graph_def.library.function
    }


def _served_operations(meta_graph: Any) -> Iterator[str]:
    """Yield the operations that the signatures, and what runs on loading, can reach."""
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    bodies = _bodies(meta_graph)
    waiting = {_node_name(tensor) for tensor in _served_tensors(meta_graph)} & nodes.keys()
    reached = set(waiting)
    functions = set[str]()
    while waiting:
        node = nodes[waiting.pop()]
        yield node.op
        functions.update(_functions_of(node, bodies))
        inputs = {_node_name(tensor) for tensor in node.input} & nodes.keys() - reached
        reached |= inputs
        waiting |= inputs
    called = set(functions)
    while functions:
        for node in bodies[functions.pop()]:
            yield node.op
            following = set(_functions_of(node, bodies)) - called
            called |= following
            functions |= following


def _served_tensors(meta_graph: Any) -> Iterator[str]:
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


def _functions_of(node: Any, bodies: dict[str, Any]) -> Iterator[str]:
    """Yield the functions that `node` names: as its operation, or in an attribute."""
    if node.op in bodies:
        yield node.op
    for value in node.attr.values():
        for function in (value.func, *value.list.func):
            if function.name in bodies:
                yield function.name


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
