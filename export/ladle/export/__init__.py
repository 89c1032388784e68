"""Train a model and publish it as a version that ladle and TensorFlow Serving serve.

    from ladle.export import export_model, load_data

    exported = export_model("models/digits", load_data("digits"))
    print(exported.path, exported.accuracy)

Importing this package is cheap: TensorFlow is imported with the first name that needs it.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from ladle.export.errors import CheckError, DataError, ExportError, PublishError
from ladle.export.publishing.requirements import Requirements
from ladle.export.training.options import TrainingOptions

if TYPE_CHECKING:
    from ladle.export.data.dataset import Dataset
    from ladle.export.data.sources import load_data, load_multi_data
    from ladle.export.multi_io.data import MultiDataset
    from ladle.export.pipeline import Exported, export_classifier, export_model
    from ladle.export.saved_model.custom_signatures import CustomSignature

__all__ = [
    "CheckError",
    "CustomSignature",
    "DataError",
    "Dataset",
    "ExportError",
    "Exported",
    "MultiDataset",
    "PublishError",
    "Requirements",
    "TrainingOptions",
    "export_classifier",
    "export_model",
    "load_data",
    "load_multi_data",
]

_LAZY = {
    "Dataset": "ladle.export.data.dataset",
    "Exported": "ladle.export.pipeline",
    "MultiDataset": "ladle.export.multi_io.data",
    "CustomSignature": "ladle.export.saved_model.custom_signatures",
    "export_classifier": "ladle.export.pipeline",
    "export_model": "ladle.export.pipeline",
    "load_data": "ladle.export.data.sources",
    "load_multi_data": "ladle.export.data.sources",
}


def __getattr__(name: str) -> Any:
    if name == "OwnSignature":
        warnings.warn("OwnSignature is now CustomSignature", DeprecationWarning, stacklevel=2)
        name = "CustomSignature"
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
