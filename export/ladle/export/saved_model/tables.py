"""Find the lookup tables that a graph reads, so that a SavedModel is written with them.

A graph holds a table's handle, and not the table. Writing it needs the object, which only whoever
made the table knows: a Keras layer, or a variable of the user's module.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import tensorflow as tf


def captured_tables(functions: Iterable[Any]) -> list[Any]:
    """Return the tables that these tf.functions with an input signature read, each once.

    They are those of all objects of the process whose handle a function has captured.
    """
    captured: dict[int, None] = {}
    for function in functions:
        graph = function.get_concrete_function().graph
        captured |= {
            id(tensor): None for tensor in graph.external_captures if tensor.dtype == tf.resource
        }
    if not captured:
        return []
    kind = tf.saved_model.experimental.TrackableResource
    # By its type: asking an object for its class may run code of a proxy.
    tables = [thing for thing in gc.get_objects() if issubclass(type(thing), kind)]
    by_handle = {id(table.resource_handle): table for table in tables}
    return [by_handle[handle] for handle in captured if handle in by_handle]
