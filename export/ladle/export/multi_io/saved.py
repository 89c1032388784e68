"""Find out how many inputs a saved model has, before TensorFlow is imported."""

from __future__ import annotations

import json
import zipfile
from typing import Any

from ladle.protos.files.regular_file import check_regular

_CONFIG = "config.json"
_MAX_CONFIG_BYTES = 1 << 28


def has_several_inputs(path: str) -> bool:
    """Return whether the file at `path` is a `.keras` model with several inputs, or named ones.

    What can't be read so has not: loading it says why.
    """
    try:
        check_regular(path)
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(_CONFIG).file_size > _MAX_CONFIG_BYTES:
                return False
            inputs = json.loads(archive.read(_CONFIG))["config"]["input_layers"]
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile):
        return False
    return _are_several(inputs)


def _are_several(inputs: Any) -> bool:
    # A layer is [name, node, tensor]; several are a list or a dict of such.
    return isinstance(inputs, dict) or (
        isinstance(inputs, list) and len(inputs) > 1 and isinstance(inputs[0], list)
    )
