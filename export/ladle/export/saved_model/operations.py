"""Refuse a SavedModel whose operations reach out of the graph: to files, or into Python.

A version that holds one is not published unless its owner names it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ladle.export.errors import CheckError
from ladle.export.saved_model.reading import read_saved_model
from ladle.protos.graphs.operations import reaching_out


def check_operations(folder: Path, allowed: Iterable[str] = ()) -> None:
    """See that no operation of the SavedModel in `folder` reaches out, but for those `allowed`.

    Raises:
        CheckError: One does; the message names all of them.
        DataError: It is no SavedModel.
    """
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
