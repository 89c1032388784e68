"""Graphs in text, for tests of what is read off them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def node(op: str, name: str, *inputs: str, calls: str = "", beside: str = "") -> str:
    """A node; `calls` a function, or lies on the device of the node `beside` it."""
    attr = f'attr {{ key: "f" value {{ func {{ name: "{calls}" }} }} }}' if calls else ""
    if beside:
        attr += f' attr {{ key: "_class" value {{ list {{ s: "loc:@{beside}" }} }} }}'
    named = " ".join(f'input: "{each}"' for each in inputs)
    return f'{{ op: "{op}" name: "{name}" {named} {attr} }}'


def function(name: str, arguments: str, *body: str, ends_with: str, more: str = "") -> str:
    """A function whose arguments have names of one letter each, and that has run with its end."""
    args = " ".join(f'input_arg {{ name: "{each}" }}' for each in arguments)
    nodes = " ".join(f"node_def {each}" for each in body)
    end = f'control_ret {{ key: "end" value: "{ends_with}" }}'
    return f'function {{ signature {{ name: "{name}" {args} }} {nodes} {end} {more} }}'


def meta_graph(nodes: Sequence[str], library: Sequence[str] = (), more: str = "") -> Any:
    """A `tensorflow.MetaGraphDef` that is restored by the node `restore`, if there is one."""
    from google.protobuf import text_format
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    graph = " ".join(f"node {each}" for each in nodes)
    saver = 'saver_def { restore_op_name: "restore" filename_tensor_name: "path:0" }'
    text = f"graph_def {{ {graph} library {{ {' '.join(library)} }} }} {saver} {more}"
    return text_format.Parse(text, MetaGraphDef())


def written(folder: Path) -> Any:
    """The `tensorflow.MetaGraphDef` of a version's folder."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    return SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs[0]
