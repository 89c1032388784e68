"""A run of `ladle predict` goes on after the rows that the one before has done, or says why not."""

from __future__ import annotations

import json
import threading
from typing import Any

import grpc
import numpy as np
import pytest
from batch.conftest import Batch, Model, answer, function_model

from ladle.client import ServerError
from ladle.client.testing import FunctionServer


@pytest.fixture
def begun(batch: Batch, model: Model) -> Batch:
    """A folder with the first 400 rows done."""

    def stop(rows: int) -> None:
        if sum(model.rows) > 450:
            raise ServerError("enough", code=grpc.StatusCode.NOT_FOUND)

    model.before = stop
    arguments = ("--rows-per-request", 50, "--shard-rows", 200, "--max-in-flight", 1)
    assert batch.run(*arguments) == 1
    assert "enough" in batch.error
    assert batch.manifest["rows"] == 400
    model.before = lambda rows: None
    model.rows.clear()
    return batch


def test_a_run_goes_on_where_the_one_before_ended(begun: Batch, model: Model) -> None:
    assert begun.run("--shard-rows", 200) == 0
    assert sum(model.rows) == 600
    begun.assert_whole()


def test_a_changed_input_is_refused_unless_allowed(begun: Batch) -> None:
    begun.change(np.concatenate([begun.x, begun.x[:5]]))
    assert begun.run("--shard-rows", 200) == 1
    assert "the input has changed since 400 of its rows were done" in begun.error
    assert begun.run("--shard-rows", 200, "--allow-changed-input") == 0
    begun.assert_whole()


def test_rows_added_to_an_input_that_was_done_are_predicted(batch: Batch, model: Model) -> None:
    assert batch.run() == 0
    model.rows.clear()
    batch.change(np.concatenate([batch.x, batch.x[:5]]))
    assert batch.run("--allow-changed-input") == 0
    assert sum(model.rows) == 5
    batch.assert_whole()


def test_another_version_is_refused_unless_allowed(
    begun: Batch, model: Model, server: FunctionServer
) -> None:
    server.models["m"] = function_model(model, version=2)
    assert begun.run("--shard-rows", 200) == 1
    assert "version 1 of the model answered 400 rows and version 2 is served now" in begun.error
    assert begun.run("--shard-rows", 200, "--allow-changed-model", "--json") == 0
    assert json.loads(begun.printed)["versions"] == [1, 2]
    begun.assert_whole()


def test_a_version_that_takes_over_amid_a_run_ends_it(
    batch: Batch, model: Model, server: FunctionServer
) -> None:
    def swap(rows: int) -> None:
        if sum(model.rows) > 300:
            server.models["m"] = function_model(model, version=2)

    model.before = swap
    arguments = ("--rows-per-request", 50, "--shard-rows", 100, "--max-in-flight", 1)
    assert batch.run(*arguments) == 1
    assert "--allow-changed-model goes on with it" in batch.error
    answered = {version for shard in batch.manifest["shards"] for version in shard["versions"]}
    assert answered == {1}


def test_other_settings_are_refused_and_restart_begins_anew(begun: Batch) -> None:
    arguments = ("--outputs", "total", "--shard-rows", 500)
    assert begun.run(*arguments) == 1
    assert 'another outputs: [], not ["total"]; --restart' in begun.error
    assert begun.run(*arguments, "--restart") == 0
    assert begun.rows["total"] == answer(begun.x)["total"].tolist()
    assert begun.rows["scores"] == []
    assert len(list(begun.out.glob("part-*"))) == 2, "nothing is left of the run before"


def test_an_interruption_leaves_what_is_done_and_says_how_to_go_on(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(progress: object, state: Any) -> None:
        if state.rows >= 400:
            raise KeyboardInterrupt

    monkeypatch.setattr("ladle.batch.dispatch.progress.Progress.show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        batch.run("--shard-rows", 200, "--rows-per-request", 50)
    assert batch.error == "ladle predict: the same command goes on where this ends\n"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("predict")]
    monkeypatch.undo()
    assert batch.run("--shard-rows", 200) == 0
    batch.assert_whole()


def test_a_run_over_the_open_inference_protocol_goes_on_too(
    batch: Batch, model: Model, server: FunctionServer
) -> None:
    def stop(rows: int) -> None:
        if sum(model.rows) > 450:
            raise ServerError("enough", code=grpc.StatusCode.NOT_FOUND)

    model.before = stop
    arguments = ("--protocol", "v2", "--shard-rows", 200)
    assert batch.run(*arguments, "--rows-per-request", 50, "--max-in-flight", 1) == 1
    assert "ModelInfer at" in batch.error
    assert batch.manifest["rows"] == 400
    model.before = lambda rows: None
    model.rows.clear()
    assert batch.run(*arguments) == 0
    assert sum(model.rows) == 600
    batch.assert_whole()
    server.models["m"] = function_model(model, version=2)
    batch.change(np.concatenate([batch.x, batch.x[:5]]))
    assert batch.run(*arguments, "--allow-changed-input") == 1
    assert "and version 2 is served now" in batch.error
