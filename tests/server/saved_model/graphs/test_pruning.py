"""What serving runs stays in the graph, with all that it needs; nothing of TF1's graphs goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graphs import function, meta_graph, node, written

from ladle.protos.graphs.pruning import prune
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model

OBJECTS = "object_graph_def { }"
SIGNATURE = """
    signature_def { key: "f" value {
        inputs { key: "x" value { name: "x:0" } }
        outputs { key: "y" value { name: "y:0" } }
    } }
"""
NEEDED = (
    node("Placeholder", "path"),
    node("VarHandleOp", "v"),
    node("NoOp", "restore", "path", "^v"),
    node("Placeholder", "x"),
    node("StatefulPartitionedCall", "y", "x", "v", calls="inner"),
)
INNER = function("inner", "xv", node("NoOp", "end"), ends_with="end")


def left(
    *nodes: str, library: tuple[str, ...] = (INNER,), more: str = OBJECTS
) -> tuple[set[str], set[str]]:
    """Return the names of the nodes and the functions that are left beside those of NEEDED."""
    graph = meta_graph([*NEEDED, *nodes], library, SIGNATURE + more)
    prune(graph)
    names = {each.name for each in graph.graph_def.node}
    functions = {each.signature.name for each in graph.graph_def.library.function}
    needed = {"path", "v", "restore", "x", "y"}
    assert names >= needed
    assert "inner" in functions
    return names - needed, functions - {"inner"}


def test_what_nothing_asks_for_goes() -> None:
    train = function("train", "v", node("NoOp", "end"), ends_with="end")
    save = node("StatefulPartitionedCall", "save", "v", calls="train")

    assert left(save, node("ReadVariableOp", "read", "v"), library=(INNER, train)) == (set(), set())


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ('collection_def { key: "saved_model_main_op" value { node_list { value: "a" } } }', "ab"),
        ('asset_file_def { tensor_info { name: "a:0" } }', "ab"),
        ('signature_def { key: "g" value { outputs { key: "z" value { name: "b:0" } } } }', "b"),
        (
            'signature_def { key: "g" value { outputs { key: "z" value { coo_sparse { '
            'values_tensor_name: "b:0" indices_tensor_name: "c:1" } } } } }',
            "bc",
        ),
        (
            'signature_def { key: "g" value { outputs { key: "z" value { composite_tensor { '
            'components { name: "c" } } } } } }',
            "c",
        ),
    ],
)
def test_what_loading_and_any_signature_asks_for_stays(more: str, names: str) -> None:
    nodes = [node("NoOp", "a", "^b"), node("Const", "b"), node("Const", "c"), node("Const", "d")]

    assert left(*nodes, more=OBJECTS + more) == (set(names), set())


def test_nodes_whose_device_others_share_stay() -> None:
    beside = node("NoOp", "end", beside="a")
    more = 'asset_file_def { tensor_info { name: "end:0" } }'

    assert left(beside, node("Const", "a", "b"), node("Const", "b"), more=OBJECTS + more) == (
        {"end", "a", "b"},
        set(),
    )


def test_functions_stay_that_others_call_differentiate_or_may_be_run_in_their_place() -> None:
    calling = function("inner", "xv", node("If", "end", "x", calls="called"), ends_with="end")
    interface = 'attr { key: "api_implements" value { s: "lstm" } }'
    library = (
        calling,
        *(
            function(name, "x", node("NoOp", "end"), ends_with="end", more=more)
            for name, more in {"called": "", "gradient": "", "on_gpu": interface, "no": ""}.items()
        ),
    )
    gradients = (
        'gradient { function_name: "called" gradient_func: "gradient" } '
        'gradient { function_name: "no" gradient_func: "no" }'
    )

    assert left(library=(*library, gradients)) == (set(), {"called", "gradient", "on_gpu"})


@pytest.mark.parametrize(
    "more",
    ["", OBJECTS + 'collection_def { key: "variables" value { node_list { value: "v" } } }'],
    ids=["no objects", "a collection of TF1"],
)
def test_other_graphs_stay_whole(more: str) -> None:
    unused = function("unused", "x", node("NoOp", "end"), ends_with="end")

    assert left(node("Const", "a"), library=(INNER, unused), more=more) == ({"a"}, {"unused"})


def test_a_graph_of_many_variables_loses_nodes_and_answers_as_before(
    tmp_path: Path,
) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.variables_ = [tf.Variable([float(n)]) for n in range(20)]
    total = tf.function(
        lambda x: {"y": x + tf.add_n(module.variables_)},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(tmp_path), signatures=total)
    graph = written(tmp_path)
    before = len(graph.graph_def.node)

    prune(graph)
    servable = load_saved_model(ServableId("m", 1), tmp_path, LoadOptions())

    assert len(graph.graph_def.node) <= before - 20
    signature = servable.signatures["serving_default"]
    answer = servable.run(signature, {"x": np.array([1, 2], np.float32)}, ("y",))
    assert answer["y"].tolist() == [191, 192]
    servable.close()
