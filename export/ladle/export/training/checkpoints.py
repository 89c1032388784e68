"""What outlives a training that is stopped: weights and optimizer, after each epoch.

They lie in a folder of ours inside the one that a user names, and nothing but these files is ever
removed. A checkpoint is put in place whole, under the number of epochs that are done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ladle.export.errors import ExportError
from ladle.export.publishing.history import published_versions

FOLDER_NAME = "ladle-training"
_CHECKPOINT = re.compile(r"epoch-([0-9]{1,10})\.weights\.h5")
_UNFINISHED = "unfinished.weights.h5"
_MAX_REASON_LENGTH = 300


class Checkpoints:
    """The checkpoints of one training.

    Args:
        given: The folder to keep them in, made where it is missing.

    Raises:
        ExportError: It cannot be written, or it is a version, or a model's base path.
    """

    def __init__(self, given: str | os.PathLike[str]) -> None:
        self._given = Path(given)
        self._folder = self._given / FOLDER_NAME
        if _is_model(self._given):
            raise ExportError(
                f"checkpoint dir: expected a folder for the training's state, and {given} holds"
                " what is served"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ExportError(
                f"checkpoint dir: cannot write into {given}: {error.strerror or error}"
            ) from error
        if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise ExportError(f"checkpoint dir: no permission to write into {self._folder}")

    def restore(self, model: Any) -> int:
        """Take over what a stopped training left to the compiled `model`; return its epochs.

        Raises:
            ExportError: It is damaged, or of another model.
        """
        path = max(self._kept(), default=None, key=_epochs_of)
        if path is None:
            return 0
        try:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(path)
        except Exception as error:  # Keras and HDF5 raise whatever a strange file leads to
            raise ExportError(
                f"checkpoint dir: {path} cannot be gone on from: {_reason(error)};"
                " remove it to begin anew"
            ) from error
        return _epochs_of(path)

    def save(self, model: Any, epochs_done: int) -> None:
        """Keep the state of `model` after so many epochs, in place of what was kept.

        Raises:
            ExportError: It cannot be written.
        """
        before = self._kept()
        unfinished = self._folder / _UNFINISHED
        kept = self._folder / f"epoch-{epochs_done}.weights.h5"
        try:
            model.save_weights(unfinished, overwrite=True)
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(kept)
        except (OSError, RuntimeError) as error:  # HDF5 raises either
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise ExportError(
                f"checkpoint dir: cannot write into {self._given}: {_reason(error)}"
            ) from error
        _remove(path for path in before if path != kept)

    def finish(self) -> None:
        """Remove what was kept: the next training starts anew."""
        _remove([*self._kept(), self._folder / _UNFINISHED])
        with suppress(OSError):  # somebody else keeps something there too
            self._folder.rmdir()

    def _kept(self) -> list[Path]:
        return [path for path in self._folder.iterdir() if _CHECKPOINT.fullmatch(path.name)]


def _epochs_of(path: Path) -> int:
    match = _CHECKPOINT.fullmatch(path.name)
    return int(match[1]) if match else 0


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _is_model(folder: Path) -> bool:
    """Return whether `folder` is a version, or a base path with versions."""
    if not folder.is_dir():
        return False
    return any(
        (version / "saved_model.pb").exists()
        for version in (folder, *published_versions(folder).values())
    )


def _reason(error: Exception) -> str:
    said = getattr(error, "strerror", None) or " ".join(str(error).split())
    return said[:_MAX_REASON_LENGTH] or type(error).__name__
