"""Find operations in a SavedModel that reach out of the graph: to files, or into Python.

A graph is a program, and whoever serves it runs it. TensorFlow's own operations can read any file
that the server can, write others, and call back into Python. The functions of the graph's library
are walked too: that is where a TF2 model keeps everything.
"""

from __future__ import annotations

import re
from typing import Any

from ladle.protos.graphs.asset_ops import TABLE_FROM_FILE, reads_assets_alone
from ladle.protos.graphs.checkpoint_ops import CHECKPOINT_OPS, unexpected_checkpoint_ops

# Read off the operations of TensorFlow 2.21, by their names and those of their inputs and
# attributes; what another release adds is caught where it follows the same naming. Operations for
# parsing and decoding, and those that read variables and tensor arrays, work on tensors alone, but
# for those of `_is_told_to`.
_REACHES_OUT = re.compile(
    r"""
    (Eager)?PyFunc(Stateless)? | GeneratorDataset
    | ReadFile | WriteFile | (Experimental)?MatchingFiles(Dataset)?
    | (FixedLengthRecord|TextLine|WholeFile|TFRecord|LMDB|Identity)Reader(V\d)? | RecordInput
    | (Experimental)?(TFRecord|TextLine|FixedLengthRecord|CSV|Sql|LMDB|Load|Save|Snapshot|Cache
      |SnapshotChunk|SnapshotNested|ListSnapshotChunks|DataService)Dataset(V\d|Reader)?
    | (Experimental)?DatasetToTFRecord | DistributedSave | RegisterDataset(V\d)?
    | DTensorRestoreV\d | Skipgram | DumpTensor | CalibrationStatisticsSaver
    | (Initialize|Serialize)TRTResource
    | Save(V2|Slices)? | Restore(V2|Slice)? | MergeV2Checkpoints | LoadAndRemapMatrix
    | GenerateVocabRemapping | InitializeTableFromTextFile(V2)? | ImmutableConst
    | CreateSummary(File|Db)Writer | PrintV2 | Debug\w*(Identity|NumericSummary|NanCount)(V\d)?
    | FileSystemSetConfiguration | GcsConfigure\w+ | Bigtable\w+ | KafkaDataset | \w*Rpc\w*
    """,
    re.VERBOSE,
)


def reaching_out(meta_graph: Any) -> set[str]:
    """Return the operations of `meta_graph`, anywhere in it, that reach out."""
    bodies = (function.node_def for function in meta_graph.graph_def.library.function)
    everywhere = {
        node.op
        for nodes in (meta_graph.graph_def.node, *bodies)
        for node in nodes
        if _REACHES_OUT.fullmatch(node.op) or _is_told_to(node)
    }
    if TABLE_FROM_FILE in everywhere and reads_assets_alone(meta_graph):
        everywhere.discard(TABLE_FROM_FILE)
    if not everywhere & CHECKPOINT_OPS:
        return everywhere
    return everywhere - CHECKPOINT_OPS | unexpected_checkpoint_ops(meta_graph)


def _is_told_to(node: Any) -> bool:
    """Return whether one of its attributes has the operation reach out."""
    match node.op:
        case "FixedUnigramCandidateSampler":
            return bool(node.attr["vocab_file"].s)
        case "DecodeProtoV2" | "EncodeProto":
            source = node.attr["descriptor_source"].s
            return bool(source) and source != b"local://" and not source.startswith(b"bytes://")
        case "Copy" | "CopyHost":
            return bool(node.attr["debug_ops_spec"].list.s)
    return False
