"""The label and the score of the predicted class, beside its index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from ladle.batch import cli
from ladle.batch.output.classes import with_classes
from ladle.client import ModelCard, Prediction
from ladle.client.testing import FunctionModel, FunctionServer

LABELS = ("cat", "dog", "größter")


def prediction(labels: tuple[str, ...] = LABELS, **outputs: Any) -> Prediction:
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    return Prediction(outputs=arrays, model="m", version=1, signature="s", labels=labels)


def classes(given: Prediction, taken: Sequence[str] = ()) -> dict[str, list[Any]]:
    outputs = with_classes(given, frozenset(taken))
    return {name: array.tolist() for name, array in outputs.items()}


SCORES = [[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]]


def test_label_and_score_follow_the_class_id() -> None:
    found = classes(prediction(a=[1, 2], class_id=[0, 2], probabilities=SCORES))
    assert list(found) == ["a", "class_id", "label", "score", "probabilities"]
    assert (found["label"], found["score"]) == (["cat", "größter"], [0.5, 1.0])


def test_a_class_that_is_not_known_has_its_index_and_no_score() -> None:
    found = classes(prediction(class_id=[3, -1], probabilities=SCORES))
    assert found["label"] == ["3", "-1"]
    assert np.isnan(found["score"]).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (prediction(probabilities=SCORES), ["probabilities"]),
        (prediction((), class_id=[0, 1]), ["class_id"]),
        (prediction((), class_id=[0, 1], p=SCORES), ["class_id", "score", "p"]),
        (prediction(class_id=[0, 1], p=SCORES, q=SCORES), ["class_id", "label", "p", "q"]),
        (prediction(class_id=[0, 1], label=[b"a", b"b"]), ["class_id", "label"]),
        (prediction(class_id=[[0], [1]]), ["class_id"]),
        (prediction(class_id=[0.0, 1.0]), ["class_id"]),
    ],
)
def test_only_what_is_known_is_added(given: Prediction, expected: list[str]) -> None:
    assert list(classes(given)) == expected


def test_names_that_the_output_has_already_are_left_alone() -> None:
    given = prediction(class_id=[0, 1], p=SCORES)
    assert list(classes(given, taken=["label", "score"])) == ["class_id", "p"]


def test_labels_have_one_width_whatever_is_predicted() -> None:
    dtypes = {
        with_classes(prediction(class_id=[n]), frozenset())["label"].dtype for n in (0, 2, 2**62)
    }
    assert len(dtypes) == 1


def classify(inputs: dict[str, NDArray[Any]]) -> dict[str, Any]:
    class_id = inputs["x"].astype(np.int64) % 3
    scores = np.full((len(class_id), 3), 0.125, np.float32)
    scores[np.arange(len(class_id)), class_id] = 0.75
    return {"class_id": class_id, "probabilities": scores}


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "csv", "npy"])
@pytest.mark.parametrize("keep", [(), ("--keep", "label")])
def test_every_format_has_them(output_format: str, keep: tuple[str, ...], tmp_path: Path) -> None:
    model = FunctionModel(
        classify,
        inputs={"x": ("float32", (-1,))},
        outputs={"class_id": ("int64", (-1,)), "probabilities": ("float32", (-1, 3))},
        card=ModelCard(labels=LABELS),
    )
    out = tmp_path / "out"
    np.savez(tmp_path / "in.npz", x=np.arange(6, dtype=np.float32), label=np.array(list("abcabc")))
    with FunctionServer({"m": model}) as server:
        fixed = ["--server", server.address, "--model", "m", "--input", str(tmp_path / "in.npz")]
        fixed += ["--output", str(out), "--output-format", output_format, "--rows-per-request", "1"]
        assert cli.main([*fixed, *keep]) == 0
    match output_format:
        case "parquet":
            found = pq.read_table(out / "part-00000.parquet").to_pydict()
        case "csv":
            found = pyarrow.csv.read_csv(out / "part-00000.csv").to_pydict()
        case "jsonl":
            lines = (out / "part-00000.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            found = {name: [row[name] for row in rows] for name in rows[0]}
        case _:
            names = ("label", "score")
            found = {name: np.load(out / f"part-00000.{name}.npy").tolist() for name in names}
    assert found["label"] == (list("abcabc") if keep else [*LABELS, *LABELS])
    assert found["score"] == [0.75] * 6
