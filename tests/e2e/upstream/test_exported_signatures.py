"""What `ladle export` writes, answered by `ladle serve` to the package tensorflow-serving-api."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checking import run_in_this_process
from e2e.serving import ServerProcess
from e2e.upstream.official import told_by
from exporting import ONE_EPOCH

from ladle.export import Dataset, export_model, load_data

pytestmark = pytest.mark.conformance


def ask(python: str, server: ServerProcess, model: str, base_path: Path) -> dict[str, Any]:
    """Send the warm-up requests of version 1; return what the official client got."""
    warmup = base_path / "1" / "assets.extra" / "tf_serving_warmup_requests"
    answers: dict[str, Any] = told_by(python, "warmup_requests", server.address, model, warmup)
    return answers


def test_every_signature_of_a_classifier_answers_the_official_client(
    conformance_python: str, digits_server: ServerProcess, digits: Path
) -> None:
    answers = ask(conformance_python, digits_server, "digits", digits)
    scores = answers.pop("classify")
    assert list(scores) == list(load_data("digits").labels)
    assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
    both = {"probabilities": [1, 10], "class_id": [1]}
    assert answers == {
        "serving_default": both,
        "serving_uint8": both,
        "serving_bytes": both,
        "logits": {"logits": [1, 10]},
    }


def test_a_regression_answers_the_official_client(
    conformance_python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The server loads it in a process of its own, too.
    monkeypatch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
    features = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    arrays = {
        "x_train": features,
        "y_train": features.sum(axis=1),
        "x_test": features[:6],
        "y_test": features[:6].sum(axis=1),
    }
    dataset = Dataset.from_arrays("sums", arrays, regression=True)
    export_model(tmp_path / "sums", dataset, options=ONE_EPOCH)
    with ServerProcess("sums", tmp_path / "sums") as server:
        answers = ask(conformance_python, server, "sums", tmp_path / "sums")
    assert isinstance(answers.pop("regress"), float)
    assert answers == {"serving_default": {"values": [1]}, "serving_raw": {"values": [1]}}
