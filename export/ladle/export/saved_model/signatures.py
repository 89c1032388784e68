"""Write a trained model as a SavedModel with serving signatures, and read what it declares."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from ladle.export.data.preparation import Preparation
from ladle.export.errors import ExportError
from ladle.export.publishing.disk import as_os_errors
from ladle.export.saved_model.reading import read_saved_model
from ladle.export.saved_model.tables import captured_tables
from ladle.export.training.fitting import Trained
from ladle.protos import dtypes

DEFAULT = "serving_default"
"""Takes normalised float32 images; of a table the numbers as they are in it; or texts."""
RAW = "serving_uint8"
"""Takes raw uint8 pixels and normalises them in the graph."""
RAW_FEATURES = "serving_raw"
"""Takes what the default takes; its name of earlier versions."""
COLUMNS = "serving_columns"
"""Takes each column of a table by its name, [rows], where all names can be names of inputs."""
ENCODED = "serving_bytes"
"""Takes encoded PNG or JPEG images; decodes, resizes and normalises them in the graph."""
LOGITS = "logits"
"""Takes what the default takes, and gives what softmax is applied to."""
CLASSIFY = "classify"
"""Takes serialised tf.Examples; answers TensorFlow Serving's Classify."""
REGRESS = "regress"
"""Takes serialised tf.Examples; answers TensorFlow Serving's Regress."""

# TensorFlow Serving's names (signature_constants.h); its Classify and Regress insist on them.
EXAMPLES_INPUT = "inputs"
METHODS = {
    CLASSIFY: "tensorflow/serving/classify",
    REGRESS: "tensorflow/serving/regress",
}

ENCODED_FEATURE = "image/encoded"
"""The feature of a tf.Example that holds an encoded image."""

LABEL_THRESHOLD = 0.5
"""An example has each label whose probability is above this, where it may have several."""

BUILT_IN = frozenset({DEFAULT, RAW, RAW_FEATURES, COLUMNS, ENCODED, LOGITS, CLASSIFY, REGRESS})
"""The names of all these."""

_MAX_REASON_LENGTH = 500

Function = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A signature to write: what it computes of its inputs, which are tf.TensorSpecs by name."""

    function: Callable[..., Mapping[str, Any]]
    inputs: tuple[Any, ...]


def make_endpoints(
    trained: Trained, preparation: Preparation, labels: tuple[str, ...]
) -> dict[str, Endpoint]:
    """Return the signatures that serve `trained`, by name; all with an open batch dimension.

    A classifier gives `probabilities` float32 [-1, classes] and `class_id` int64 [-1]; or, where
    an example may have several labels, `indicators` int64 [-1, labels] in place of the latter,
    1 for each label whose probability is above 1/2. A regression gives `values` float32 [-1], or
    [-1, n] for several numbers an example; Regress, which has one, can't answer with these.
    """
    answer, outputs = _answers(trained)
    name = preparation.input_name

    def predict(prepared: Any) -> dict[str, Any]:
        return outputs(answer(prepared))

    def prepared(batch: Any) -> Any:
        # Numbers of a table come as they are in it. Images come normalised, and are resized here:
        # the two may change places, because one is linear and the other affine.
        if not preparation.are_images:
            return preparation.normalized(batch)
        return preparation.resized(batch)

    def from_default(batch: Any) -> dict[str, Any]:
        return predict(prepared(batch))

    def from_columns(*columns: Any) -> dict[str, Any]:
        return predict(prepared(tf.stack(columns, axis=1)))

    def from_raw(batch: Any) -> dict[str, Any]:
        return predict(preparation.in_graph(batch))

    def from_encoded(batch: Any) -> dict[str, Any]:
        return predict(preparation.normalized(_decode(batch, preparation)))

    def logits(batch: Any) -> dict[str, Any]:
        return {"logits": trained.logits(prepared(batch))}

    def classify(examples: Any) -> dict[str, Any]:
        scores = answer(preparation.normalized(_parse(examples, preparation)))
        classes = tf.repeat(tf.constant([labels]), tf.shape(scores)[0], axis=0)
        return {"classes": classes, "scores": scores}

    def regress(examples: Any) -> dict[str, Any]:
        return {"outputs": answer(preparation.normalized(_parse(examples, preparation)))}

    def takes(function: Function, dtype: Any, shape: Any, input_name: str = name) -> Endpoint:
        return Endpoint(function=function, inputs=(tf.TensorSpec(shape, dtype, input_name),))

    shape = preparation.open_shape
    dtype = tf.string if preparation.are_texts else tf.float32
    endpoints = {DEFAULT: takes(from_default, dtype, shape)}
    if preparation.are_images:
        endpoints[RAW] = takes(from_raw, tf.uint8, shape)
    elif not preparation.are_texts:
        endpoints[RAW_FEATURES] = takes(from_raw, tf.float32, shape)
        if preparation.input_columns:
            columns = [tf.TensorSpec([None], tf.float32, c) for c in preparation.input_columns]
            endpoints[COLUMNS] = Endpoint(function=from_columns, inputs=tuple(columns))
    if preparation.decodable:
        endpoints[ENCODED] = takes(from_encoded, tf.string, [None])
    if trained.has_logits:
        endpoints[LOGITS] = takes(logits, dtype, shape)
    if trained.is_regression and trained.n_values is None:
        endpoints[REGRESS] = takes(regress, tf.string, [None], EXAMPLES_INPUT)
    elif not trained.is_regression:
        endpoints[CLASSIFY] = takes(classify, tf.string, [None], EXAMPLES_INPUT)
    return endpoints


def write_saved_model(endpoints: Mapping[str, Endpoint], folder: Path) -> None:
    """Write `endpoints` as a SavedModel into the existing `folder`.

    Only what they compute with is written: no dropout, optimizer or random state. Lookup tables
    are written with it; the files that they are read from become its assets.

    Raises:
        OSError: The folder cannot be written.
        ExportError: An endpoint computes with what can't be written.
    """
    # The model is not track()ed: that would write every variable a second time, and dropout's.
    archive = keras.export.ExportArchive()
    functions = [
        archive.add_endpoint(name, endpoint.function, list(endpoint.inputs))
        for name, endpoint in endpoints.items()
    ]
    try:
        tables = captured_tables(functions)
    except Exception as error:  # whatever the code of a layer raises when it is traced
        reason = " ".join(str(error).split())[:_MAX_REASON_LENGTH]
        raise ExportError(
            "a signature can't be made a graph: a layer has to compute with keras.ops or"
            f" TensorFlow alone: {type(error).__name__}: {reason}"
        ) from error
    for table in tables:
        archive.track(table)
    try:
        with as_os_errors():
            archive.write_out(str(folder), verbose=False)
    except AssertionError as error:  # TensorFlow's, of what is no variable and no table
        raise ExportError(
            "a signature uses a resource that a SavedModel can't hold: only variables and tables"
            f" of tf.lookup can be written, no datasets, iterators or queues: {error}"
        ) from error
    _set_method_names(folder)


def declared_signatures(folder: Path) -> dict[str, Any]:
    """Return the inputs and outputs of the signatures in `folder`, as a model card tells them.

    Each name to its dtype and shape; -1 is any size.
    """
    meta_graph = read_saved_model(folder).meta_graphs[0]
    return {
        name: {
            "inputs": {key: _declared(info) for key, info in signature.inputs.items()},
            "outputs": {key: _declared(info) for key, info in signature.outputs.items()},
        }
        for name, signature in meta_graph.signature_def.items()
        if not name.startswith("__")
    }


def _answers(trained: Trained) -> tuple[Callable[[Any], Any], Function]:
    if trained.is_regression:
        return trained.values, lambda values: {"values": values}
    if trained.is_multi_label:
        return trained.probabilities_of, lambda probabilities: {
            "probabilities": probabilities,
            "indicators": tf.cast(probabilities > LABEL_THRESHOLD, tf.int64),
        }
    return trained.probabilities_of, lambda probabilities: {
        "probabilities": probabilities,
        "class_id": tf.argmax(probabilities, axis=1, output_type=tf.int64),
    }


def _decode(batch: Any, preparation: Preparation) -> Any:
    spec = tf.TensorSpec(preparation.model_shape, tf.float32)
    return tf.map_fn(preparation.decoded, batch, fn_output_signature=spec)


def _parse(examples: Any, preparation: Preparation) -> Any:
    """Turn serialised tf.Examples into a raw batch of the size that the model takes."""
    name = preparation.input_name
    if not preparation.are_images:
        dtype = tf.string if preparation.are_texts else tf.float32
        feature = tf.io.FixedLenFeature(preparation.raw_shape, dtype)
        return tf.io.parse_example(examples, {name: feature})[name]
    if not preparation.decodable:
        feature = tf.io.FixedLenFeature(preparation.raw_shape, tf.int64)
        pixels = tf.io.parse_example(examples, {name: feature})[name]
        return preparation.resized(tf.cast(pixels, tf.float32))
    absent = np.full(preparation.raw_shape, -1)
    features = {
        name: tf.io.FixedLenFeature(preparation.raw_shape, tf.int64, absent),
        ENCODED_FEATURE: tf.io.FixedLenFeature([], tf.string, ""),
    }
    parsed = tf.io.parse_example(examples, features)

    def from_pixels(pixels: Any) -> Any:
        expected = f'an Example: expected "{ENCODED_FEATURE}", or "{name}" with pixels 0 to 255'
        tf.debugging.Assert(tf.reduce_all((pixels >= 0) & (pixels <= 255)), [expected])
        return preparation.resized(tf.cast(pixels, tf.float32)[tf.newaxis])[0]

    def one(row: tuple[Any, Any]) -> Any:
        pixels, encoded = row
        return tf.cond(
            tf.equal(encoded, ""),
            lambda: from_pixels(pixels),
            lambda: preparation.decoded(encoded),
        )

    spec = tf.TensorSpec(preparation.model_shape, tf.float32)
    return tf.map_fn(one, (parsed[name], parsed[ENCODED_FEATURE]), fn_output_signature=spec)


def _set_method_names(folder: Path) -> None:
    """Name the methods of Classify and Regress, where TensorFlow writes Predict's for all."""
    message = read_saved_model(folder)
    for meta_graph in message.meta_graphs:
        for name, method in METHODS.items():
            if name in meta_graph.signature_def:
                meta_graph.signature_def[name].method_name = method
    (folder / "saved_model.pb").write_bytes(message.SerializeToString(deterministic=True))
    write_fingerprint(str(folder))


def _declared(info: Any) -> dict[str, Any]:
    dtype = dtypes.name(info.dtype)
    return {"dtype": dtype, "shape": [dim.size for dim in info.tensor_shape.dim]}
