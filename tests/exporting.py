"""What tests of exports share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ladle.export import TrainingOptions

CLASSIFIER_SIGNATURES = {
    "serving_default",
    "serving_uint8",
    "serving_bytes",
    "classify",
    "logits",
}
# A few steps take less time one by one than the compilation of one.
ONE_EPOCH = TrainingOptions(epochs=1, run_eagerly=True)


class TF1Session:
    """The version in a session, as TensorFlow Serving runs it."""

    def __init__(self, path: Path) -> None:
        import tensorflow as tf

        graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self.session, ["serve"], str(path))
        self.signatures = meta_graph.signature_def

    def run(
        self, signature: str, given: NDArray[Any], output: str = "probabilities"
    ) -> NDArray[Any]:
        """Return an output of a signature, which takes one input."""
        tensors = self.signatures[signature]
        (taken,) = tensors.inputs.values()
        answer: NDArray[Any] = self.session.run(tensors.outputs[output].name, {taken.name: given})
        return answer

    def close(self) -> None:
        """Give its memory back."""
        self.session.close()
