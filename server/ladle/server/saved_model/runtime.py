"""TensorFlow, imported once: seconds that only a server which loads a model has to spend."""

from __future__ import annotations

import threading
from typing import Any

from ladle.server.saved_model.memory import keep_imports

_importing = threading.Lock()


def tensorflow() -> Any:
    """Return the module; blocks while it is imported, whichever thread does it.

    Models load in many threads at once. Where one of them imports the package and another a
    module inside it, each waits for the other, and Python ends that with half an import.
    """
    with _importing:
        import tensorflow

        keep_imports()
        return tensorflow
