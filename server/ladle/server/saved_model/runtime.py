"""TensorFlow, imported once: seconds that only a server which loads a model has to spend."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ladle.server.core.machine.stderr import without_lines
from ladle.server.saved_model.memory import keep_imports

# The driver's device, its device in WSL, and what the driver says of itself.
_SIGNS_OF_A_GPU = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/proc/driver/nvidia/version")
_TEMPORARY = "/tmp"
_importing = threading.Lock()


def tensorflow() -> Any:
    """Return the module; blocks while it is imported, whichever thread does it.

    Models load in many threads at once. Where one of them imports the package and another a
    module inside it, each waits for the other, and Python ends that with half an import.
    """
    with _importing:
        if "tensorflow" not in sys.modules:
            name_temporary_folder()
            with _without_keras():
                import tensorflow
            if not has_gpu():
                _look_for_gpus(tensorflow)
        import tensorflow

        keep_imports()
        return tensorflow


def name_temporary_folder() -> None:
    """Have `tempfile` name a folder where there is none that can be written.

    TensorFlow's import asks for its name, and fails without one. Serving writes nothing there.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = _TEMPORARY


def has_gpu(exists: Callable[[str], bool] = os.path.exists) -> bool:
    """Whether the machine seems to have a GPU of NVIDIA's, whatever may be wrong with it."""
    return any(map(exists, _SIGNS_OF_A_GPU))


def _look_for_gpus(tf: Any) -> None:
    """Have TensorFlow look for GPUs now, and not complain that there is no driver.

    It looks once in a process. With the first session it would say that a call of cuInit failed,
    which reads as if something were broken.
    """
    with without_lines(lambda line: b"failed call to cuInit" in line):
        tf.config.list_physical_devices("GPU")


def find_op_def(name: str) -> Any:
    """Return the `tensorflow.OpDef` of a registered operation; None where there is none."""
    tensorflow()
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name)


def saved_model_loader(path: Path) -> Any:
    """Return TensorFlow's loader of the SavedModel in `path`, which it reads; blocks.

    It takes the steps of a load one by one, where `tf.saved_model` has one function for all.
    """
    tensorflow()
    from tensorflow.python.saved_model.loader_impl import SavedModelLoader

    return SavedModelLoader(str(path))


@contextmanager
def _without_keras() -> Iterator[None]:
    """Keep TensorFlow's import from importing all of Keras, which a server never uses.

    TensorFlow does so for optimizers in SavedModels that are trained further, and does without
    where there is no Keras. It costs half of the import's time, and 100 MB where scikit-learn and
    matplotlib are installed, since Keras imports those in turn. Whoever needs Keras in this
    process can import it afterwards.
    """
    if "keras" in sys.modules:
        yield
        return
    sys.modules["keras"] = None  # type: ignore[assignment] # so Python marks what can't be imported
    try:
        yield
    finally:
        del sys.modules["keras"]
