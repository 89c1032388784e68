"""The benchmarks' model: the classifier of the quickstart, with made-up weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from ladle.protos import tensors
from ladle.protos.model_card import CARD_PATH, ModelCard
from ladle.protos.serving_pb import PredictRequest

SIGNATURES = ("serving_default", "serving_uint8", "serving_strings", "serving_sum")


def one_image() -> bytes:
    """Return the serialized PredictRequest for one float32 image of the model `bench`."""
    request = PredictRequest()
    request.model_spec.name = "bench"
    request.inputs["image"].CopyFrom(tensors.to_proto(np.zeros((1, 28, 28), np.float32)))
    return request.SerializeToString()


def publish(folder: Path) -> None:
    """Write the model as a SavedModel into `folder`; TensorFlow stays out of this process.

    Its card vouches for all signatures: all requests of a benchmark are alike, and prove nothing.
    """
    subprocess.run([sys.executable, __file__, str(folder)], check=True, capture_output=True)
    card = ModelCard(row_independent_signatures=SIGNATURES)
    (folder / CARD_PATH).parent.mkdir(exist_ok=True)
    (folder / CARD_PATH).write_text(card.to_json())


def _write(folder: str) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.w1 = tf.Variable(tf.random.stateless_normal([784, 128], [1, 2], stddev=0.05))
    module.w2 = tf.Variable(tf.random.stateless_normal([128, 10], [3, 4], stddev=0.05))

    def classify(image: object) -> dict[str, object]:
        hidden = tf.nn.relu(tf.reshape(image, [-1, 784]) @ module.w1)
        return {"probabilities": tf.nn.softmax(hidden @ module.w2)}

    def signature(dtype: object, scale: float) -> object:
        return tf.function(
            lambda image: classify(tf.cast(image, tf.float32) * scale),
            input_signature=[tf.TensorSpec([None, 28, 28], dtype, name="image")],
        )

    def embed(words: object) -> dict[str, object]:
        hidden = tf.gather(module.w1, tf.strings.to_hash_bucket_fast(words, 784))
        return {"probabilities": tf.nn.softmax(tf.reduce_sum(hidden, 1) @ module.w2)}

    signatures = {
        "serving_default": signature(tf.float32, 1.0),
        "serving_uint8": signature(tf.uint8, 1 / 255),
        "serving_strings": tf.function(
            embed, input_signature=[tf.TensorSpec([None, 8], tf.string, name="words")]
        ),
        "serving_sum": tf.function(
            lambda image: {"sum": tf.reduce_sum(tf.reshape(image, [-1, 784]), 1)},
            input_signature=[tf.TensorSpec([None, 28, 28], tf.float32, name="image")],
        ),
    }
    tf.saved_model.save(module, folder, signatures=signatures)


if __name__ == "__main__":
    _write(sys.argv[1])
