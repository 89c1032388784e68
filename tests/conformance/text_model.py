"""Writes a model of TensorFlow Text's operations; tells whether that package is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any


def main() -> None:
    """Write the model into the folder that is the argument."""
    found = importlib.util.find_spec("tensorflow_text") is not None
    if found:
        _write(sys.argv[1])
    print(json.dumps({"written": found}))


def _write(path: str) -> None:
    import tensorflow as tf
    import tensorflow_text

    class Lowered(tf.Module):  # type: ignore[misc] # TensorFlow has no types
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])  # type: ignore[untyped-decorator]
        def lower(self, text: Any) -> Any:
            return {"lowered": tensorflow_text.case_fold_utf8(text)}

    model = Lowered()
    tf.saved_model.save(model, path, {"serving_default": model.lower})


if __name__ == "__main__":
    main()
