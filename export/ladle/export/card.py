"""Write the model card that travels with a version."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ladle.export.dataset import Dataset
from ladle.export.options import TrainingOptions
from ladle.protos.model_card import CARD_PATH, ModelCard

_PACKAGES = ("ladle", "tensorflow", "keras", "numpy", "scikit-learn")


def provenance(recipe: str, options: TrainingOptions, dataset: Dataset) -> dict[str, Any]:
    """Return where a version comes from: what it takes to train it again, and when it was."""
    return {
        "recipe": recipe,
        "training": {**asdict(options), "epochs": options.epochs_for(len(dataset.x_train))},
        "data": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "training_images": len(dataset.x_train),
            "held_out_images": len(dataset.x_test),
        },
        "packages": _package_versions(),
        "python": platform.python_version(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_card(card: ModelCard, folder: Path) -> None:
    """Write `card` where servers and clients look for it in the version `folder`."""
    path = folder / CARD_PATH
    path.parent.mkdir(exist_ok=True)
    path.write_text(card.to_json(), encoding="utf-8")


def _package_versions() -> Mapping[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout, or installed under another name
            continue
    return found
