"""What the output of a model means: logits, probabilities or values; and how it is served."""

from __future__ import annotations

from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from ladle.export.data.dataset import Dataset
from ladle.export.errors import ExportError

OutputKind = Literal["logits", "softmax", "sigmoid", "values"]
"""logits: what softmax or, for several labels an example, sigmoid is applied to; softmax:
probabilities that sum to 1; sigmoid: a probability for each label by itself; values: numbers of a
regression."""

HALF = ("float16", "bfloat16")
_FEW = 64
# Half precision adds up the probabilities of many classes no better.
_OFF_BY = 0.01
_SMALLEST = 1e-7  # as Keras has it, whose logarithm is finite


def output_kind(model: Any, dataset: Dataset) -> OutputKind:
    """Return what the model's output is.

    An output is a softmax where the answers to some examples are probabilities that sum to 1,
    wherever they are made so: in a layer, in a model inside it, or in code. Logits are that by
    chance at no time. It is a sigmoid where the last layer says so; and, for several labels an
    example, where all answers are between 0 and 1.
    """
    if dataset.is_regression:
        return "values"
    activation = last_activation(model)
    if activation == "sigmoid":
        return "sigmoid"
    answers = _some_answers(model, dataset)
    if dataset.is_multi_label:
        is_sigmoid = activation is None and are_probabilities(answers)
        return "sigmoid" if is_sigmoid else "logits"
    return "softmax" if sum_to_1(answers) else "logits"


def as_served(model: Any, dataset: Dataset) -> Any:
    """Return the model with an output for each class, in float32.

    A model with one output for two classes, as for binary cross-entropy, gives the probability of
    the second, after a sigmoid, or its logit. Around it comes a model that shares its layers and
    gives both: [1-p, p], or the logits [0, z], whose softmax is the same. An output in half
    precision is cast to float32, so that the loss and softmax are computed in that.

    Raises:
        ExportError: The model gives probabilities in half precision.
    """
    inputs = model_input(model, dataset)
    outputs = model(inputs)
    if outputs.dtype in HALF:
        _check_casts(model, dataset, outputs.dtype)
        outputs = keras.ops.cast(outputs, "float32")
    elif len(dataset.labels) != 2 or outputs.shape[-1] != 1:
        return model
    if len(dataset.labels) == 2 and outputs.shape[-1] == 1:
        second = outputs
        ends_with_sigmoid = _ends_with_sigmoid(model, dataset)
        first = 1 - second if ends_with_sigmoid else keras.ops.zeros_like(second)
        outputs = keras.ops.concatenate([first, second], axis=-1)
    return keras.Model(inputs, outputs)


def model_input(model: Any, dataset: Dataset) -> Any:
    """Return a symbolic batch of prepared examples, as the model takes them."""
    shape = dataset.preparation.model_shape
    if not dataset.preparation.are_texts:
        return keras.Input(shape)
    declared = getattr(model, "input_shape", None)
    is_column = isinstance(declared, tuple) and len(declared) == 2
    return keras.Input((1,) if is_column else shape, dtype="string")


def last_activation(model: Any) -> str | None:
    """Return the name of the activation of a model's last layer; "linear" for none.

    None where that is in code.
    """
    is_sequential = isinstance(model, keras.Sequential)
    operations = model.layers if is_sequential else getattr(model, "operations", None)
    if not operations:
        return None
    last = operations[-1]
    if isinstance(last, keras.Model):
        return last_activation(last)
    activation = getattr(last, "activation", None)
    name = getattr(activation, "__name__", type(last).__name__)
    return name.lower() if name.lower() in ("sigmoid", "softmax", "linear") else None


def cross_entropy(probabilities: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the mean cross-entropy of probabilities and classes or labels.

    Args:
        probabilities: [examples, classes] or [examples, labels].
        targets: The class of each example, [examples]; or 0 or 1 for each label, [examples,
            labels], whose entropies are averaged too.
    """
    wide = np.asarray(probabilities, np.float64)
    if targets.ndim == 2:
        chosen = np.where(targets, wide, 1 - wide)
    else:
        chosen = wide[np.arange(len(targets)), targets.astype(np.int64)]
    return float(-np.log(np.clip(chosen, _SMALLEST, 1)).mean())


def half_error(dtype: str) -> ExportError:
    """Return the refusal of a model that gives probabilities in half precision."""
    return ExportError(
        f"model: its last layer gives probabilities in {dtype}, which sum to 1 only roughly:"
        ' make that layer float32, as Dense(..., activation="softmax", dtype="float32"), or'
        " let it give logits"
    )


def computes_in_half(model: Any) -> bool:
    """Return whether a layer computes in half precision, whose rounding depends on the batch."""
    layers = model.layers if isinstance(model, keras.Model) else []
    return (
        getattr(model, "compute_dtype", None) in HALF
        or any(map(computes_in_half, layers))
        or any(getattr(layer, "compute_dtype", None) in HALF for layer in layers)
    )


def _check_casts(model: Any, dataset: Dataset, dtype: str) -> None:
    answers = _some_answers(model, dataset)
    activation = last_activation(model)
    is_activated = activation in ("sigmoid", "softmax") or (
        not dataset.is_regression and (sum_to_1(answers) or are_probabilities(answers))
    )
    if activation != "linear" and is_activated:
        raise half_error(dtype)


def _ends_with_sigmoid(model: Any, dataset: Dataset) -> bool:
    activation = last_activation(model)
    if activation in ("sigmoid", "linear"):
        return activation == "sigmoid"
    # Its last step is in code: probabilities are between 0 and 1, and logits seldom all are.
    return are_probabilities(_some_answers(model, dataset))


def _some_answers(model: Any, dataset: Dataset) -> NDArray[np.float64]:
    few = dataset.preparation.apply(dataset.x_train[:_FEW])
    outputs = model(keras.ops.convert_to_tensor(few), training=False)
    return np.asarray(keras.ops.cast(outputs, "float32"), np.float64)


def sum_to_1(answers: NDArray[np.float64]) -> bool:
    """Return whether each row of numbers could be probabilities of classes."""
    return bool(np.all(answers >= 0) and np.all(np.abs(answers.sum(axis=-1) - 1) < _OFF_BY))


def are_probabilities(answers: NDArray[np.float64]) -> bool:
    """Return whether all numbers are between 0 and 1."""
    return bool(np.all((answers >= 0) & (answers <= 1)))
