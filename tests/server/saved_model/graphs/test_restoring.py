"""Which variables surely have a value after restoring is read off the graph, and never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import spec
from graphs import function, meta_graph, node, written

from ladle.protos.graphs.restoring import initialises, restored_variables
from ladle.server.core.servable import Signature, TensorSpec
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model
from ladle.server.saved_model.variables import without_value

V, W = node("VarHandleOp", "v"), node("VarHandleOp", "w")
ASSIGN = node("AssignVariableOp", "assign", "b", "restored:tensors:0")
CALL = node("StatefulPartitionedCall", "restore", "path", "v", "w", calls="f")
F = function("f", "pab", ASSIGN, ends_with="assign")

CASES = {
    "directly": (
        [V, node("AssignVariableOp", "a", "v", "x"), node("NoOp", "restore", "^a")],
        [],
        {"v"},
    ),
    "a reference": (
        [node("VariableV2", "v"), node("Assign", "a", "v:0", "x"), node("NoOp", "restore", "^a")],
        [],
        {"v"},
    ),
    "one that is not asked for": (
        [V, node("AssignVariableOp", "a", "v", "x"), node("NoOp", "restore")],
        [],
        set(),
    ),
    "in a branch": (
        [
            V,
            node("Switch", "s", "x", "x"),
            node("AssignVariableOp", "a", "v", "s:1"),
            node("NoOp", "restore", "^a"),
        ],
        [],
        set(),
    ),
    "and destroyed": (
        [
            V,
            node("AssignVariableOp", "a", "v", "x"),
            node("DestroyResourceOp", "d", "v", "^a"),
            node("NoOp", "restore", "^d"),
        ],
        [],
        set(),
    ),
    "in a function": ([V, W, CALL], [F], {"w"}),
    "in a function, and not asked for": (
        [V, W, CALL],
        [function("f", "pab", ASSIGN, node("NoOp", "end"), ends_with="end")],
        set(),
    ),
    "in a function that a function calls": (
        [V, W, CALL],
        [
            F.replace('name: "f"', 'name: "g"'),
            function(
                "f",
                "pab",
                node("StatefulPartitionedCall", "call", "p", "b", "a", calls="g"),
                ends_with="call",
            ),
        ],
        {"v"},
    ),
    "in a function that calls itself": (
        [V, W, CALL],
        [
            function(
                "f",
                "pab",
                node("StatefulPartitionedCall", "call", "p", "b", "a", calls="f"),
                node("StatefulPartitionedCall", "again", "p", "a", "b", "^call", calls="f"),
                ends_with="again",
            )
        ],
        set(),
    ),
    "in a branch of a function": (
        [V, W, CALL],
        [
            F.replace('name: "f"', 'name: "g"'),
            function("f", "pab", node("If", "if", "p", "a", "b", calls="g"), ends_with="if"),
        ],
        set(),
    ),
    "in a function that is not there": ([V, W, CALL], [], set()),
    "something that is no variable": (
        [node("Placeholder", "v"), node("AssignVariableOp", "restore", "v", "x")],
        [],
        set(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_surely_assigned_counts(case: str) -> None:
    nodes, functions, restored = CASES[case]
    assert restored_variables(meta_graph(nodes, functions)) == restored


class NeverAsked:
    """A session that nothing may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the session was asked for {name}")


@pytest.mark.parametrize("name", ["half_plus_two", "half_plus_two_tf2", "oddities"])
def test_of_models_that_tensorflow_writes_the_session_is_not_asked(
    name: str, written_models: Path
) -> None:
    graph = written(written_models / name / "1")
    outputs = {
        info.name: TensorSpec(1, None, feed_name=info.name)
        for definition in graph.signature_def.values()
        for info in definition.outputs.values()
        if info.name
    }
    assert outputs

    assert without_value(NeverAsked(), [Signature("f", {"x": spec(-1)}, outputs)], graph) == []


def test_what_the_saver_does_not_name_is_not_restored(tmp_path: Path) -> None:
    import tensorflow as tf

    tf1 = tf.compat.v1
    with tf1.Graph().as_default(), tf1.Session() as session:
        for use_resource in (True, False):
            for name in ("saved", "left_out"):
                tf1.get_variable(
                    f"{name}_{use_resource}", initializer=1.0, use_resource=use_resource
                )
        session.run(tf1.global_variables_initializer())
        saved = [v for v in tf1.global_variables() if v.op.name.startswith("saved")]
        builder = tf1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], saver=tf1.train.Saver(saved))
        builder.save()

    assert restored_variables(written(tmp_path / "1")) == {"saved_True", "saved_False"}


def collection(key: str, kind: str, value: str) -> str:
    return f'collection_def {{ key: "{key}" value {{ {kind} {{ value: "{value}" }} }} }}'


def initialiser(name: str) -> str:
    output = f'outputs {{ key: "__saved_model_init_op" value {{ name: "{name}" }} }}'
    return f'signature_def {{ key: "__saved_model_init_op" value {{ {output} }} }}'


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", False),
        (initialiser("idle"), False),
        (initialiser("idle") + collection("saved_model_main_op", "node_list", "idle"), False),
        (collection("legacy_init_op", "node_list", "idle"), False),
        (initialiser("fills"), True),
        (initialiser("idle") + collection("saved_model_main_op", "node_list", "fills"), True),
        (collection("legacy_init_op", "node_list", "table:0"), True),
        (collection("legacy_init_op", "node_list", "lost"), True),
        (collection("saved_model_main_op", "bytes_list", "idle"), True),
        (initialiser(""), True),
    ],
)
def test_initialising_is_left_out_only_where_it_surely_does_nothing(
    more: str, expected: bool
) -> None:
    nodes = [node("NoOp", "idle"), node("NoOp", "fills", "^table"), node("Table", "table")]

    assert initialises(meta_graph(nodes, more=more)) is expected


def test_a_table_has_an_initialiser_which_runs(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    filled = tf.lookup.KeyValueTensorInitializer(["a"], [7], tf.string, tf.int64)
    module.table = tf.lookup.StaticHashTable(filled, -1)
    look = tf.function(
        lambda x: {"y": module.table.lookup(x)},
        input_signature=[tf.TensorSpec([None], tf.string, name="x")],
    )
    tf.saved_model.save(module, str(tmp_path), signatures=look)
    assert initialises(written(tmp_path))

    servable = load_saved_model(ServableId("m", 1), tmp_path, LoadOptions())

    words = np.array([b"a", b"b"], object)
    signature = servable.signatures["serving_default"]
    assert servable.run(signature, {"x": words}, ("y",))["y"].tolist() == [7, -1]
    servable.close()


def test_a_model_of_tf2_without_tables_initialises_nothing(written_models: Path) -> None:
    assert not initialises(written(written_models / "half_plus_two_tf2" / "1"))
