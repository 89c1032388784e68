"""A functional Keras model by the names of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ladle.export.errors import ExportError
from ladle.export.multi_io.data import ONLY, Arrays, MultiDataset
from ladle.export.training.outputs import HALF, OutputKind, are_probabilities, half_error, sum_to_1

_FEW = 64


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one output of a model means."""

    name: str
    """`ONLY` for the only output."""
    gives: OutputKind
    labels: tuple[str, ...]
    """Of its classes or labels; none for numbers."""
    is_multi_label: bool
    is_second_class: bool
    """Whether it has one column for two classes, the second's."""
    is_flat: bool
    """Whether its numbers are one an example, and their targets [examples]."""

    @property
    def answer(self) -> str:
        """The name under which signatures give its probabilities or values."""
        if self.name:
            return self.name
        return "values" if self.gives == "values" else "probabilities"

    @property
    def decision(self) -> str | None:
        """The name under which they give the class or the labels; None for numbers."""
        if self.gives == "values":
            return None
        name = "indicators" if self.is_multi_label else "class_id"
        return f"{self.name}_{name}" if self.name else name


class NamedModel:
    """Calls a functional model with tensors by name, and gives its outputs by name.

    Raises:
        ExportError: The model is not functional, or does not fit the data.
    """

    def __init__(self, model: Any, dataset: MultiDataset) -> None:
        self.model = model
        takes, gives = getattr(model, "input", None), getattr(model, "output", None)
        if not isinstance(model, keras.Model) or takes is None or gives is None:
            raise ExportError(
                "model: one with several inputs or outputs has to be functional:"
                " keras.Model(inputs, outputs)"
            )
        self.takes: dict[str, Any] = _by_name(takes, [t.name for t in keras.tree.flatten(takes)])
        outputs = _by_name(gives, model.output_names)
        if not isinstance(gives, dict) and len(outputs) == 1 and dataset.y_train.keys() == {ONLY}:
            outputs = {ONLY: next(iter(outputs.values()))}
        _check_names(dataset, "inputs", self.takes, dataset.x_train)
        _check_names(dataset, "outputs", outputs, dataset.y_train)
        self._output_names = list(outputs)
        for name, declared in self.takes.items():
            fitted(name, dataset.x_train[name][:1], declared)
            _check_whole(name, dataset.x_train[name], declared)
        few = {name: array[:_FEW] for name, array in dataset.x_train.items()}
        answers = self(self.fit_inputs(few))
        self.outputs = [_output(name, answers[name], dataset) for name in self._output_names]

    def __call__(self, tensors: Mapping[str, Any], *, training: bool = False) -> dict[str, Any]:
        """Return the raw outputs for a batch that `fit_inputs` has made, by name."""
        return self.named(self.model(self.packed(tensors), training=training))

    def packed(self, tensors: Mapping[str, Any]) -> Any:
        """Return tensors by name in the structure that the model takes."""
        if isinstance(self.model.input, dict):
            return {name: tensors[name] for name in self.takes}
        as_list = [tensors[name] for name in self.takes]
        return as_list if isinstance(self.model.input, list | tuple) else as_list[0]

    def named(self, outputs: Any) -> dict[str, Any]:
        """Return the model's outputs by name."""
        if isinstance(outputs, dict):
            return {name: outputs[name] for name in self._output_names}
        values = outputs if isinstance(outputs, list | tuple) else [outputs]
        return dict(zip(self._output_names, values, strict=True))

    def fit_inputs(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return arrays or tensors in the dtypes and ranks that the model declares."""
        return {name: fitted(name, arrays[name], declared) for name, declared in self.takes.items()}

    def answers(self, arrays: Arrays, batch_size: int = 1024) -> dict[str, NDArray[Any]]:
        """Return what signatures answer, by Keras itself: see `served`."""
        n_rows = len(next(iter(arrays.values())))
        batches = []
        for start in range(0, n_rows, batch_size):
            rows = {name: array[start : start + batch_size] for name, array in arrays.items()}
            answer = self.served(self(self.fit_inputs(rows)))
            batches.append({name: np.asarray(value) for name, value in answer.items()})
        return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}

    def served(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return probabilities with decisions, or values, of raw outputs by name."""
        told = {}
        for output in self.outputs:
            values = tf.cast(raw[output.name], tf.float32)
            if output.gives == "values":
                told[output.answer] = tf.reshape(values, [-1]) if output.is_flat else values
                continue
            probabilities = _probabilities(values, output)
            told[output.answer] = probabilities
            assert output.decision is not None
            if output.is_multi_label:
                told[output.decision] = tf.cast(probabilities > 0.5, tf.int64)
            else:
                told[output.decision] = tf.argmax(probabilities, axis=1, output_type=tf.int64)
        return told


def fitted(name: str, array: Any, declared: Any) -> Any:
    """Return an array or a tensor as the input `declared` takes it: [n] and [n, 1] are one.

    Raises:
        ExportError: It takes something else.
    """
    shape, wanted = tuple(array.shape), tuple(declared.shape)
    is_text = array.dtype in (object, tf.string)
    if is_text != (declared.dtype == "string"):
        raise ExportError(
            f'model: input "{name}" takes {declared.dtype}, and the data have'
            f" {'texts' if is_text else array.dtype}"
        )
    tensor = tf.convert_to_tensor(array) if is_text else tf.cast(array, declared.dtype)
    if len(wanted) == len(shape) + 1 and wanted[-1] == 1:
        tensor, shape = tensor[..., tf.newaxis], (*shape, 1)
    elif len(wanted) == len(shape) - 1 and shape[-1] == 1:
        tensor, shape = tf.squeeze(tensor, -1), shape[:-1]
    if len(shape) != len(wanted) or any(
        size not in (None, have) for size, have in zip(wanted[1:], shape[1:], strict=True)
    ):
        raise ExportError(
            f'model: input "{name}" takes {_shown(wanted)}, and the data have'
            f" {_shown((None, *array.shape[1:]))}"
        )
    return tensor


def _check_whole(name: str, array: NDArray[Any], declared: Any) -> None:
    """Refuse fractions for an input of integers, which would be cut off."""
    if array.dtype.kind != "f" or not tf.as_dtype(declared.dtype).is_integer:
        return
    fractions = array[array != np.trunc(array)]
    if fractions.size:
        raise ExportError(
            f'model: input "{name}" takes {declared.dtype}, and the data have {fractions.flat[0]:g}'
        )


def _by_name(structure: Any, names: list[str]) -> dict[str, Any]:
    if isinstance(structure, dict):
        return dict(structure)
    values = list(structure) if isinstance(structure, list | tuple) else [structure]
    return dict(zip(names, values, strict=True))


def _check_names(dataset: MultiDataset, what: str, of_model: Any, of_data: Arrays) -> None:
    if set(of_model) != set(of_data):
        there = ", ".join(name for name in of_data if name) or "one without a name"
        raise ExportError(
            f"model: its {what} are {', '.join(of_model) or 'one'}, and those of {dataset.name}"
            f" are {there}"
        )


def _output(name: str, answers: Any, dataset: MultiDataset) -> Output:
    task, labels = dataset.task(name), tuple(dataset.labels.get(name, ()))
    targets = dataset.y_train[name]
    wanted = targets.shape[1] if targets.ndim == 2 else len(labels) or 1
    width = int(answers.shape[-1]) if len(answers.shape) == 2 else 1
    is_second_class = task == "classes" and len(labels) == 2 and width == 1
    if len(answers.shape) > 2 or (width != wanted and not is_second_class):
        raise ExportError(
            f'model: output "{name}" gives {_shown((None, *answers.shape[1:]))}, expected'
            f" {[-1, wanted]} for {dataset.name}"
        )
    values = np.asarray(tf.cast(answers, tf.float32), np.float64)
    gives: OutputKind = "logits"
    if task == "numbers":
        gives = "values"
    elif task == "labels" or is_second_class:
        gives = "sigmoid" if are_probabilities(values) else "logits"
    elif sum_to_1(values):
        gives = "softmax"
    if answers.dtype.name in HALF and gives in ("softmax", "sigmoid"):
        raise half_error(answers.dtype.name)
    return Output(
        name=name,
        gives=gives,
        labels=labels,
        is_multi_label=task == "labels",
        is_second_class=is_second_class,
        is_flat=targets.ndim == 1,
    )


def _probabilities(values: Any, output: Output) -> Any:
    if output.is_second_class:
        second = tf.reshape(values, [-1, 1])
        second = second if output.gives == "sigmoid" else tf.sigmoid(second)
        return tf.concat([1 - second, second], axis=1)
    if output.gives != "logits":
        return values
    return tf.sigmoid(values) if output.is_multi_label else tf.nn.softmax(values)


def _shown(shape: tuple[Any, ...]) -> str:
    return str([-1 if size is None else int(size) for size in shape])
