"""Train a classifier and publish it as a version that ladle and TensorFlow Serving serve.

    from ladle.export import export_classifier, load_data

    exported = export_classifier("models/digits", load_data("digits"))
    print(exported.path, exported.accuracy)

Importing this package is cheap: TensorFlow is imported with the first name that needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ladle.export.errors import CheckError, DataError, ExportError, PublishError
from ladle.export.options import TrainingOptions
from ladle.export.requirements import Requirements

if TYPE_CHECKING:
    from ladle.export.dataset import Dataset
    from ladle.export.own_signatures import OwnSignature
    from ladle.export.pipeline import Exported, export_classifier
    from ladle.export.sources import load_data

__all__ = [
    "CheckError",
    "DataError",
    "Dataset",
    "ExportError",
    "Exported",
    "OwnSignature",
    "PublishError",
    "Requirements",
    "TrainingOptions",
    "export_classifier",
    "load_data",
]

_LAZY = {
    "Dataset": "ladle.export.dataset",
    "Exported": "ladle.export.pipeline",
    "OwnSignature": "ladle.export.own_signatures",
    "export_classifier": "ladle.export.pipeline",
    "load_data": "ladle.export.sources",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
