from __future__ import annotations

import json
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ladle.export import Dataset, ExportError, TrainingOptions
from ladle.export.publishing.card import git_commit, provenance, write_card
from ladle.protos.model_card import Column, ModelCard


def test_provenance_tells_how_to_train_the_version_again(arrays: dict[str, NDArray[Any]]) -> None:
    dataset = Dataset.from_arrays("small", arrays)
    told = provenance("mlp", TrainingOptions(batch_size=4, seed=7), dataset, epochs=9)
    assert told["recipe"] == "mlp"
    assert told["training"].items() >= {"epochs": 9, "batch_size": 4, "seed": 7}.items()
    assert told["training"]["optimizer"] == "adam"
    assert told["data"] == {
        "name": "small",
        "fingerprint": dataset.fingerprint,
        "training_examples": 12,
        "held_out_examples": 6,
    }
    assert told["packages"]["numpy"] == np.__version__
    age = datetime.now(timezone.utc) - datetime.fromisoformat(told["created"])
    assert age < timedelta(minutes=1)
    assert told["resize"] is None
    json.dumps(told)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_told_in_a_checkout_and_whether_it_is_all(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None
    (tmp_path / "train.py").write_text("1")
    git(tmp_path, "add", "train.py")
    git(tmp_path, "commit", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "train.py").write_text("2")
    assert git_commit(tmp_path) == f"{commit}+changes"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(Path.cwd()) is None


def test_the_card_lies_where_servers_look_for_it(tmp_path: Path) -> None:
    card = ModelCard(
        labels=("cat", "dog"),
        metrics={"accuracy": 0.5},
        columns=(Column(name="b"), Column(name="a", dtype="int64")),
    )
    write_card(card, tmp_path)
    assert ModelCard.from_json((tmp_path / "assets.extra" / "ladle.json").read_bytes()) == card


def test_a_card_larger_than_servers_take_is_refused(tmp_path: Path) -> None:
    card = ModelCard(labels=tuple("x" * 200 for _ in range(6000)))
    with pytest.raises(ExportError, match=r"expected at most 1048576 bytes, got 1.*: 6000 labels"):
        write_card(card, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_names_of_what_may_be_batched_are_read_as_names_alone() -> None:
    card = ModelCard(row_independent_signatures=("serving_default", "classify"))
    assert ModelCard.from_json(card.to_json()) == card
    assert ModelCard.from_json('{"format": 1}').row_independent_signatures == ()
    for damaged in ('"serving_default"', "[1]", "null", "{}"):
        with pytest.raises(ValueError, match="row_independent_signatures: expected a list"):
            ModelCard.from_json(f'{{"format": 1, "row_independent_signatures": {damaged}}}')
