"""Check a version that is published already: its graph, and what a server would do with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ladle.export.errors import CheckError, DataError
from ladle.export.models.prepared_alike import check_alike, requests_to_compare
from ladle.export.publishing.card import read_card
from ladle.export.saved_model.operations import check_operations
from ladle.export.saved_model.reading import has_saved_model
from ladle.export.saved_model.subprocess_check import Checked, Loading, check
from ladle.protos.files.integrity import find_missing, model_folder
from ladle.protos.model_card import ModelCard

_TFLITE_MODEL = "model.tflite"


def check_version(
    folder: Path, allowed_operations: Iterable[str] = (), loading: Loading | None = None
) -> Checked:
    """See that the version in `folder` loads and answers as in a server; blocks.

    Its warm-up requests run, and every signature that they leave out runs on made inputs.

    Args:
        folder: the version's.
        allowed_operations: operations that reach out of the graph, and may.
        loading: how it is loaded. Modules that the version's card says it needs are imported only
            if they are named here too.

    Raises:
        CheckError: It does not load, its graph holds an operation that reaches out, or a request
            fails or gives numbers that are not finite.
    """
    loading = loading or Loading()
    card = read_card(folder)
    _check_modules(card, loading)
    runs_as_tflite = loading.prefer_tflite_model and (folder / _TFLITE_MODEL).is_file()
    model = model_folder(folder)
    if has_saved_model(model) and not runs_as_tflite:
        if (missing := find_missing(folder)) is not None:  # in the words of a server
            raise CheckError("load", f"{folder}: {missing}")
        try:
            check_operations(model, allowed_operations)
        except DataError as error:
            raise CheckError("load", str(error)) from error
    compared = requests_to_compare(card)
    checked = check(folder, compared, loading, every_signature=True)
    if compared:
        check_alike(*checked.answers)
    return checked


def _check_modules(card: ModelCard | None, loading: Loading) -> None:
    allowed = {name.strip() for name in loading.import_modules.split(",")}
    needed = () if card is None else card.import_modules
    if not set(needed) <= allowed:
        raise CheckError(
            "load",
            f"its model card says that it needs {', '.join(needed)}: importing runs what is in"
            f" them; allow it with --import_modules={','.join(needed)}",
        )
