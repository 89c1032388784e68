"""The signatures of a model with several inputs or outputs, and what they are checked with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.multi_io.data import Arrays
from ladle.export.multi_io.model import NamedModel
from ladle.export.saved_model.custom_signatures import Find
from ladle.export.saved_model.samples import Sample
from ladle.export.saved_model.signatures import (
    CLASSIFY,
    DEFAULT,
    EXAMPLES_INPUT,
    REGRESS,
    Endpoint,
)
from ladle.protos.tensorflow_pb import Example


def make_endpoints(named: NamedModel, examples: Arrays) -> dict[str, Endpoint]:
    """Return the signatures, by name.

    `serving_default` takes each input by its name, as the data have it, and gives each output.
    A model with one output has Classify or Regress too, of tf.Examples with a feature for each
    input; these can answer for one output alone.

    Args:
        named: The model.
        examples: Some examples of the data, by the input's name, [examples, ...].
    """
    specs = [
        tf.TensorSpec((None, *examples[name].shape[1:]), declared.dtype, name)
        for name, declared in named.takes.items()
    ]

    def predict(*tensors: Any) -> dict[str, Any]:
        given = dict(zip(named.takes, tensors, strict=True))
        return named.served(named(named.fit_inputs(given)))

    endpoints = {DEFAULT: Endpoint(function=predict, inputs=tuple(specs))}
    output = named.outputs[0]
    if len(named.outputs) > 1 or (output.gives == "values" and not output.is_flat):
        return endpoints
    features = {
        spec.name: tf.io.FixedLenFeature(spec.shape[1:], _feature_dtype(spec.dtype))
        for spec in specs
    }

    def of_examples(serialised: Any) -> Any:
        parsed = tf.io.parse_example(serialised, features)
        given = [
            tf.cast(parsed[s.name], s.dtype) if s.dtype != tf.string else parsed[s.name]
            for s in specs
        ]
        return predict(*given)[output.answer]

    def classify(serialised: Any) -> dict[str, Any]:
        scores = of_examples(serialised)
        classes = tf.repeat(tf.constant([output.labels]), tf.shape(scores)[0], axis=0)
        return {"classes": classes, "scores": scores}

    def regress(serialised: Any) -> dict[str, Any]:
        return {"outputs": of_examples(serialised)}

    takes = (tf.TensorSpec([None], tf.string, EXAMPLES_INPUT),)
    if output.gives == "values":
        endpoints[REGRESS] = Endpoint(function=regress, inputs=takes)
    else:
        endpoints[CLASSIFY] = Endpoint(function=classify, inputs=takes)
    return endpoints


def make_samples(
    endpoints: Mapping[str, Endpoint], named: NamedModel, examples: Arrays
) -> dict[str, Sample]:
    """Return for each signature the examples as it takes them, and what Keras makes of them."""
    answers = named.answers(examples)
    inputs = {
        name: np.asarray(examples[name], None if declared.dtype == "string" else declared.dtype)
        for name, declared in named.takes.items()
    }
    samples = {DEFAULT: Sample(inputs=inputs, outputs=answers)}
    output = named.outputs[0]
    answer = answers[output.answer]
    serialised = {EXAMPLES_INPUT: _examples(inputs)} if len(endpoints) > 1 else {}
    if CLASSIFY in endpoints:
        names = np.array([label.encode() for label in output.labels], object)
        told = {"classes": np.tile(names, (len(answer), 1)), "scores": answer}
        samples[CLASSIFY] = Sample(inputs=serialised, outputs=told)
    if REGRESS in endpoints:
        samples[REGRESS] = Sample(inputs=serialised, outputs={"outputs": answer})
    return samples


def held_out(named: NamedModel, examples: Arrays) -> Find:
    """Return what finds the examples that an input of a signature takes, by the input's name."""

    def find(spec: Any) -> NDArray[Any] | None:
        if spec.name not in named.takes or (spec.dtype == tf.string) != (
            named.takes[spec.name].dtype == "string"
        ):
            return None
        array = examples[spec.name]
        forms = [array, array[..., np.newaxis]]
        if array.ndim > 1 and array.shape[-1] == 1:
            forms.append(array[..., 0])
        for form in forms:
            if spec.shape.is_compatible_with(form.shape):
                return form if spec.dtype == tf.string else form.astype(spec.dtype.as_numpy_dtype)
        return None

    return find


def _feature_dtype(dtype: Any) -> Any:
    """Return the one of the three dtypes of tf.Examples that holds values of `dtype`."""
    if dtype == tf.string:
        return dtype
    return tf.float32 if dtype.is_floating else tf.int64


def _examples(inputs: Arrays) -> NDArray[np.object_]:
    serialised = []
    for row in range(len(next(iter(inputs.values())))):
        example = Example()
        for name, array in inputs.items():
            values = np.asarray(array[row]).reshape(-1)
            feature = example.features.feature[name]
            if array.dtype == object:
                texts = (text.encode() if isinstance(text, str) else text for text in values)
                feature.bytes_list.value.extend(texts)
            elif array.dtype.kind == "f":
                feature.float_list.value.extend(values.tolist())
            else:
                feature.int64_list.value.extend(values.astype(np.int64).tolist())
        serialised.append(example.SerializeToString())
    return np.array(serialised, object)
