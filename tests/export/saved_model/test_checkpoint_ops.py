"""Which checkpoints a graph can write and read; the graphs are messages, and nothing runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ladle.protos.graphs.operations import reaching_out

Node = tuple[str, str, list[str]]
"""Its name, operation and inputs."""

# As TensorFlow writes them: a graph of TF1 has them among its nodes, one of TF2 in functions.
_TF1: list[Node] = [
    ("save/filename/input", "Const", []),
    ("save/filename", "PlaceholderWithDefault", ["save/filename/input"]),
    ("save/Const", "PlaceholderWithDefault", ["save/filename"]),
    ("save/SaveV2", "SaveV2", ["save/Const", "names", "slices", "v"]),
    ("save/identity", "Identity", ["save/Const:0"]),
    ("save/RestoreV2", "RestoreV2", ["save/identity:0", "names", "slices"]),
    ("save/Assign", "Assign", ["v", "save/RestoreV2"]),
    ("v", "VariableV2", []),
    ("save/restore_all", "NoOp", ["^save/Assign"]),
    ("elsewhere", "Const", []),
    ("asked", "Identity", ["v:0"]),
]
_TF1_SAVER = ("save/Const:0", "save/SaveV2:0", "save/restore_all")
_TF2: list[Node] = [
    ("path", "Placeholder", []),
    ("v", "VarHandleOp", []),
    ("elsewhere", "Const", []),
    ("save", "traced_save", ["path", "v"]),
    ("restore", "traced_restore", ["path", "v"]),
    ("asked", "ReadVariableOp", ["v"]),
]
_TF2_SAVER = ("path:0", "save:0", "restore")
_TRACED: dict[str, tuple[list[str], list[Node]]] = {
    "traced_save": (
        ["file", "variable"],
        [
            ("SaveV2", "SaveV2", ["file", "n:output:0", "s:output:0", "variable"]),
            ("Merge", "MergeV2Checkpoints", ["SaveV2:0", "file"]),
        ],
    ),
    "traced_restore": (
        ["file", "variable"],
        [
            ("RestoreV2", "RestoreV2", ["file", "n:output:0", "s:output:0"]),
            ("Assign", "AssignVariableOp", ["variable", "RestoreV2:tensors:0"]),
        ],
    ),
}


def graph(
    nodes: list[Node],
    saver: tuple[str, str, str],
    functions: dict[str, tuple[list[str], list[Node]]] | None = None,
) -> Any:
    """Return a MetaGraphDef with a signature that gives the tensor `asked`."""
    from tensorflow.core.protobuf import meta_graph_pb2

    made = meta_graph_pb2.MetaGraphDef()
    for name, op, inputs in nodes:
        made.graph_def.node.add(name=name, op=op, input=inputs)
    for name, (arguments, body) in (functions or {}).items():
        function = made.graph_def.library.function.add()
        function.signature.name = name
        for argument in arguments:
            function.signature.input_arg.add(name=argument)
        for node, op, inputs in body:
            function.node_def.add(name=node, op=op, input=inputs)
    path, saves, restores = saver
    made.saver_def.filename_tensor_name = path
    made.saver_def.save_tensor_name = saves
    made.saver_def.restore_op_name = restores
    made.signature_def["serving_default"].outputs["y"].name = "asked:0"
    return made


def tf1(*more: Node) -> Any:
    """Return a graph of TF1, with nodes that replace those of their names."""
    replaced = {node[0]: node for node in (*_TF1, *more)}
    return graph(list(replaced.values()), _TF1_SAVER)


def tf2(more: list[Node] | None = None, **functions: tuple[list[str], list[Node]]) -> Any:
    """Return a graph of TF2, with nodes and functions that replace those of their names."""
    replaced = {node[0]: node for node in (*_TF2, *(more or []))}
    return graph(list(replaced.values()), _TF2_SAVER, _TRACED | functions)


@pytest.mark.parametrize("made", [tf1, tf2])
def test_saving_and_restoring_as_tensorflow_writes_them_are_no_reason(made: Any) -> None:
    assert reaching_out(made()) == set()


def test_a_second_saver_that_nothing_runs_is_no_reason() -> None:
    unused: list[Node] = [
        ("save_1/RestoreV2", "RestoreV2", ["elsewhere", "names", "slices"]),
        ("save_1/SaveV2", "SaveV2", ["elsewhere", "names", "slices", "v"]),
    ]
    assert reaching_out(tf1(*unused)) == set()


def test_what_a_signature_reaches_is_found() -> None:
    reads: Node = ("read", "RestoreV2", ["save/Const", "names", "slices"])
    assert reaching_out(tf1(reads, ("asked", "Identity", ["read:0"]))) == {"RestoreV2"}
    assert reaching_out(tf2([("asked", "traced_save", ["path", "v"])])) == {
        "SaveV2",
        "MergeV2Checkpoints",
    }


def test_restoring_that_saves_is_found() -> None:
    saves: Node = ("write", "SaveV2", ["save/Const", "names", "slices", "v"])
    restores: Node = ("save/restore_all", "NoOp", ["^save/Assign", "^write"])
    assert reaching_out(tf1(saves, restores)) == {"SaveV2"}
    calls: Node = ("restore", "NoOp", ["^save"])
    assert reaching_out(tf2([calls])) == {"SaveV2", "MergeV2Checkpoints"}


def test_restoring_from_elsewhere_is_found() -> None:
    reads: Node = ("save/RestoreV2", "RestoreV2", ["elsewhere", "names", "slices"])
    assert reaching_out(tf1(reads)) == {"RestoreV2"}
    assert reaching_out(tf1(("save/identity", "Identity", ["save/identity"]))) == {"RestoreV2"}
    calls: Node = ("restore", "traced_restore", ["elsewhere", "v"])
    assert reaching_out(tf2([calls])) == {"RestoreV2"}


def test_a_function_that_reads_from_elsewhere_is_found() -> None:
    constant: list[Node] = [("Const", "Const", []), ("R", "RestoreV2", ["Const:output:0"])]
    assert reaching_out(tf2(traced_restore=(["file", "variable"], constant))) == {"RestoreV2"}
    inner: list[Node] = [("call", "hidden", ["variable"])]
    found = tf2(traced_restore=(["file", "variable"], inner), hidden=(["file"], constant))
    assert reaching_out(found) == {"RestoreV2"}


def test_a_function_that_is_given_the_path_once_and_something_else_once_is_found() -> None:
    again: list[Node] = [
        ("restore_again", "traced_restore", ["elsewhere", "v"]),
        ("both", "NoOp", ["^restore", "^restore_again"]),
    ]
    made = tf2(again)
    made.saver_def.restore_op_name = "both"
    assert reaching_out(made) == {"RestoreV2"}


@pytest.mark.parametrize("key", ["saved_model_main_op", "legacy_init_op"])
def test_what_runs_on_loading_is_found(key: str) -> None:
    made = tf1(("write", "SaveV2", ["elsewhere", "names", "slices", "v"]))
    made.collection_def[key].node_list.value.append("write")
    assert reaching_out(made) == {"SaveV2"}


def test_what_an_object_can_do_is_found() -> None:
    """TensorFlow's loader of TF2 runs initialisers by the objects, not by the graph."""
    writes: list[Node] = [("W", "SaveV2", ["Const:output:0"])]
    made = tf2(initializer=([], writes))
    assert reaching_out(made) == set()
    made.object_graph_def.concrete_functions["initializer"].SetInParent()
    assert reaching_out(made) == {"SaveV2"}


@pytest.mark.parametrize(
    ("op", "attribute", "harmless", "reaching"),
    [
        ("FixedUnigramCandidateSampler", "vocab_file", b"", b"/etc/passwd"),
        ("DecodeProtoV2", "descriptor_source", b"local://", b"/etc/passwd"),
        ("EncodeProto", "descriptor_source", b"bytes://\n\x00", b"/etc/passwd"),
    ],
)
def test_an_attribute_that_names_a_file_is_found(
    op: str, attribute: str, harmless: bytes, reaching: bytes
) -> None:
    made = tf1(("told", op, []))
    assert reaching_out(made) == set()
    told = made.graph_def.node[-1].attr[attribute]
    told.s = harmless
    assert reaching_out(made) == set()
    told.s = reaching
    assert reaching_out(made) == {op}


def test_a_copy_for_the_debugger_is_found() -> None:
    made = tf2(copies=([], [("told", "Copy", [])]))
    assert reaching_out(made) == set()
    told = made.graph_def.library.function[-1].node_def[0].attr["debug_ops_spec"]
    told.list.s.append(b"DebugIdentity;file:///tmp/dump;0")
    assert reaching_out(made) == {"Copy"}


@pytest.mark.parametrize("op", ["RegisterDatasetV2", "DumpTensor", "CalibrationStatisticsSaver"])
def test_what_reaches_out_by_attributes_alone_is_found(op: str) -> None:
    assert reaching_out(tf1(("out", op, []))) == {op}


def test_tensorflows_own_save_is_no_reason(tmp_path: Path) -> None:
    """Tables are restored beside variables, and initialised on loading."""
    import tensorflow as tf

    from ladle.export.saved_model.operations import check_operations

    module = tf.Module()
    module.weight = tf.Variable(1.0)
    module.seen = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, 0)
    known = tf.lookup.KeyValueTensorInitializer(["a"], [1])
    module.known = tf.lookup.StaticHashTable(known, 0)
    spec = tf.TensorSpec([None], tf.string, "x")
    module.serve = tf.function(
        lambda x: {"y": module.known.lookup(x), "z": module.seen.lookup(x)}, input_signature=[spec]
    )
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    check_operations(tmp_path)
