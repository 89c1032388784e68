"""Write the model card that travels with a version."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ladle.export.data.dataset import Dataset
from ladle.export.errors import ExportError
from ladle.export.multi_io.data import MultiDataset
from ladle.export.training.options import TrainingOptions
from ladle.protos.files.regular_file import read_bytes
from ladle.protos.model_card import CARD_PATH, MAX_CARD_BYTES, ModelCard, Normalization

_PACKAGES = ("ladle", "tensorflow", "keras", "numpy", "scikit-learn")
_GIT_TIMEOUT_S = 10


def provenance(
    recipe: str, options: TrainingOptions, dataset: Dataset | MultiDataset, *, epochs: int
) -> dict[str, Any]:
    """Return where a version comes from: what it takes to train it again, and when it was."""
    is_made_up = isinstance(dataset, Dataset) and dataset.is_made_up
    told: dict[str, Any] = {
        "recipe": recipe,
        "training": _as_json(options) | {"epochs": epochs},
        "data": {
            "name": dataset.name,
            "fingerprint": None if is_made_up else dataset.fingerprint,
            "training_examples": 0 if is_made_up else dataset.n_train,
            "held_out_examples": 0 if is_made_up else dataset.n_test,
        },
        "packages": _package_versions(),
        "python": platform.python_version(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if isinstance(dataset, Dataset):
        told["resize"] = None if dataset.resize is None else list(dataset.resize)
    if isinstance(dataset, Dataset) and not dataset.preparation.are_images:
        told["standardization"] = _as_json(dataset.normalization)
    if dataset.notes:
        told["data"]["notes"] = list(dataset.notes)
    commit = git_commit(Path.cwd())
    return told if commit is None else told | {"git_commit": commit}


def git_commit(folder: Path) -> str | None:
    """Return the commit checked out in `folder`, or None where it is in no git checkout.

    `+changes` is added where tracked files differ from it.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return f"{commit}+changes" if _git(folder, "status", "--porcelain", "-uno") else commit


def write_card(card: ModelCard, folder: Path) -> None:
    """Write `card` where servers and clients look for it in the version `folder`.

    Raises:
        ExportError: It is larger than they take.
    """
    text = card.to_json().encode()
    if len(text) > MAX_CARD_BYTES:
        raise ExportError(
            f"model card: expected at most {MAX_CARD_BYTES} bytes, got {len(text)}:"
            f" {len(card.labels)} labels may be too many or too long"
        )
    path = folder / CARD_PATH
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text)


def read_card(folder: Path) -> ModelCard | None:
    """Return the card of the version in `folder`; None where it has none that can be read."""
    try:
        return ModelCard.from_json(read_bytes(folder / CARD_PATH, MAX_CARD_BYTES))
    except (OSError, ValueError):
        return None


def _as_json(options: TrainingOptions | Normalization) -> dict[str, Any]:
    """Return the fields as they come back from JSON, which has lists and no tuples."""
    told = asdict(options)
    return {name: list(v) if isinstance(v, tuple) else v for name, v in told.items()}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None


def _package_versions() -> Mapping[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout, or installed under another name
            continue
    return found
