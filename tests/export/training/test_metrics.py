"""Keras's metrics by name are fed with what they take, and give what scikit-learn does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn

RNG = np.random.default_rng(1)
N = 80


def measured(name: str, targets: Any, outputs: Any, **options: Any) -> float:
    from ladle.export.training.metrics import make_metrics

    (metric,) = make_metrics((name,), **options)
    half = len(targets) // 2
    for rows in (slice(half), slice(half, None)):
        metric.update_state(targets[rows], outputs[rows])
    assert metric.name == name
    found = float(metric.result())
    metric.reset_state()
    return found


@pytest.mark.parametrize("form", ["logits", "softmax", "second logit", "sigmoid"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("precision", sklearn.precision_score),
        ("recall", sklearn.recall_score),
        ("binary_accuracy", sklearn.accuracy_score),
        ("f1_score", lambda t, p: sklearn.f1_score(t, p, average="macro")),
        ("sparse_categorical_accuracy", sklearn.accuracy_score),
        ("categorical_accuracy", sklearn.accuracy_score),
    ],
)
def test_of_two_classes_they_are_about_the_second(form: str, name: str, expected: Any) -> None:
    classes, logits = RNG.integers(0, 2, N), RNG.normal(size=(N, 1)).astype(np.float32)
    second = 1 / (1 + np.exp(-logits))
    outputs = {
        "logits": np.concatenate([np.zeros_like(logits), logits], axis=1),
        "softmax": np.concatenate([1 - second, second], axis=1),
        "second logit": logits,
        "sigmoid": second,
    }[form]
    gives = {"second logit": "logits"}.get(form, form)
    targets = (
        classes[:, None].astype(np.float32) if form in ("second logit", "sigmoid") else classes
    )
    found = measured(name, targets, outputs, gives=gives, n_classes=2)
    assert found == pytest.approx(expected(classes, logits[:, 0] > 0), abs=1e-5)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("f1_score", lambda t, p: sklearn.f1_score(t, p.argmax(1), average="macro")),
        ("categorical_accuracy", lambda t, p: sklearn.accuracy_score(t, p.argmax(1))),
        ("sparse_categorical_accuracy", lambda t, p: sklearn.accuracy_score(t, p.argmax(1))),
        ("categorical_crossentropy", lambda t, p: sklearn.log_loss(t, p)),
        ("mae", lambda t, p: np.abs(np.eye(3)[t] - p).mean()),
    ],
)
def test_of_several_classes_they_get_rows_and_probabilities(
    one_hot: bool, name: str, expected: Any
) -> None:
    classes, logits = RNG.integers(0, 3, N), RNG.normal(size=(N, 3)).astype(np.float32)
    targets = np.eye(3, dtype=np.float32)[classes] if one_hot else classes
    found = measured(name, targets, logits, gives="logits", n_classes=3)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found == pytest.approx(expected(classes, probabilities), abs=1e-4)


def test_of_several_labels_each_is_by_itself() -> None:
    labels, logits = RNG.integers(0, 2, (N, 3)), RNG.normal(size=(N, 3)).astype(np.float32)
    found = measured("precision", labels, logits, gives="logits", n_classes=3, is_multi_label=True)
    expected = sklearn.precision_score(labels, logits > 0, average="micro")
    assert found == pytest.approx(expected, abs=1e-5)
