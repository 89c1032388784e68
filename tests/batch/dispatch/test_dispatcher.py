"""The run by itself, with a function in the place of a server."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, Semaphore

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladle.batch.dispatch import retries
from ladle.batch.dispatch.dispatcher import Ask, dispatch
from ladle.batch.dispatch.options import Options
from ladle.batch.errors import BatchError, ModelLost
from ladle.batch.output.folder import OutputFolder
from ladle.batch.output.manifest import Manifest
from ladle.batch.output.shards import ShardedOutput
from ladle.batch.rows import FailedRow, Part
from ladle.batch.writers.jsonl import JsonlWriter
from ladle.client import (
    DeadlineExceeded,
    InvalidInput,
    LadleError,
    Overloaded,
    Prediction,
    Unavailable,
)

# A run that waits for nothing fails its test, and doesn't wait with it.
pytestmark = pytest.mark.timeout(60)
EMPTY = Manifest(input="", settings={}, version=1)


def prediction(**outputs: np.ndarray) -> Prediction:
    return Prediction(outputs=outputs, model="m", version=1, signature="s")


def parts_of(rows: int, unreadable: set[int], sizes: list[int], start: int) -> Iterator[Part]:
    """Yield rows in chunks of these sizes, again and again, their numbers being their values."""
    index = 0
    while start < rows:
        stop = min(start + sizes[index % len(sizes)], rows)
        index += 1
        numbers = np.array([n for n in range(start, stop) if n not in unreadable], np.int64)
        failed = [FailedRow(n, "BAD", "unread") for n in range(start, stop) if n in unreadable]
        yield Part(
            start=start,
            stop=stop,
            numbers=numbers,
            tensors={"x": numbers},
            kept={},
            failed=tuple(failed),
        )
        start = stop


def written(folder: Path) -> tuple[list[int], list[int]]:
    """Return the rows with a prediction, having checked it, and those that failed."""
    parts = [
        json.loads(line)
        for part in sorted(folder.glob("part-*"))
        for line in part.read_text().splitlines()
    ]
    failed = [
        json.loads(line)["row"]
        for part in sorted(folder.glob("_failed-*"))
        for line in part.read_text().splitlines()
    ]
    assert all(row["twice"] == 2 * row["row"] for row in parts)
    return [row["row"] for row in parts], failed


def run_into(
    folder: Path,
    parts: Callable[[int], Iterator[Part]],
    ask: Ask,
    options: Options | None = None,
    *,
    manifest: Manifest = EMPTY,
    now: Callable[[], float] = time.monotonic,
) -> Manifest:
    """Run with one request at a time, where no options say otherwise."""
    with OutputFolder(folder) as opened:
        options = options or Options(max_in_flight=1)
        output = output_to(opened, manifest, options, now)
        dispatch(parts(output.next_row), ask, output, options, give_up=lambda: None, now=now)
        return output.manifest


def output_to(
    folder: OutputFolder,
    manifest: Manifest,
    options: Options,
    now: Callable[[], float] = time.monotonic,
) -> ShardedOutput:
    return ShardedOutput(
        folder,
        manifest,
        JsonlWriter,
        shard_rows=options.shard_rows,
        shard_s=options.shard_s,
        now=now,
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.integers(0, 60),
    bad=st.sets(st.integers(0, 59), max_size=8),
    unreadable=st.sets(st.integers(0, 59), max_size=8),
    sizes=st.lists(st.integers(1, 25), min_size=1, max_size=3),
    request_rows=st.integers(1, 12),
    shard_rows=st.integers(4, 40),
    in_flight=st.integers(1, 6),
    busy=st.floats(0, 0.4),
    seed=st.integers(0, 1000),
)
def test_whatever_fails_each_row_is_there_once_in_order(
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
    bad: set[int],
    unreadable: set[int],
    sizes: list[int],
    request_rows: int,
    shard_rows: int,
    in_flight: int,
    busy: float,
    seed: int,
) -> None:
    monkeypatch.setattr(retries, "wait_s", lambda attempts: 0.0)
    monkeypatch.setattr(retries, "MAX_REFUSALS", 1000)
    chance, lock = random.Random(seed), Lock()

    def ask(part: Part) -> Prediction:
        x = part.tensors["x"]
        with lock:
            is_busy = chance.random() < busy
            error = chance.choice([Overloaded, Unavailable, DeadlineExceeded])
        if is_busy:
            raise error("busy")
        if bad & set(x.tolist()):
            raise InvalidInput("bad")
        return prediction(twice=x * 2)

    with tempfile.TemporaryDirectory() as path:
        manifest = run_into(
            Path(path),
            lambda start: parts_of(rows, unreadable, sizes, start),
            ask,
            Options(
                request_rows=request_rows,
                max_in_flight=in_flight,
                shard_rows=shard_rows,
                max_failed=rows,
            ),
        )
        gone = {n for n in bad | unreadable if n < rows}
        assert written(Path(path)) == (
            [n for n in range(rows) if n not in gone],
            sorted(gone),
        )
        assert (manifest.rows, manifest.failed) == (rows, len(gone))
        assert all(shard.stop % shard_rows == 0 for shard in manifest.shards[:-1])


def run_in(folder: Path, ask: Ask, **kept: np.ndarray) -> Manifest:
    def parts(start: int) -> Iterator[Part]:
        for part in parts_of(8, set(), [4], start):
            columns = {name: column[part.start : part.stop] for name, column in kept.items()}
            yield replace(part, kept=columns)

    return run_into(folder, parts, ask)


def test_two_columns_of_the_same_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match='two columns "row"; leave one out with --keep'):
        run_in(tmp_path, lambda part: prediction(y=part.tensors["x"]), row=np.arange(8))


def test_outputs_that_change_amid_a_shard_are_refused(tmp_path: Path) -> None:
    def ask(part: Part) -> Prediction:
        return prediction(**{"y" if part.start == 0 else "z": part.tensors["x"]})

    with pytest.raises(BatchError, match="the model's outputs were y before, and are z now"):
        run_in(tmp_path, ask)


def test_a_slow_model_has_its_answers_put_in_place_before_a_shard_is_full(tmp_path: Path) -> None:
    now = [0.0]

    def ask(part: Part) -> Prediction:
        now[0] += 200.0
        return prediction(twice=part.tensors["x"] * 2)

    manifest = run_into(
        tmp_path,
        lambda start: parts_of(12, set(), [2], start),
        ask,
        Options(max_in_flight=1, shard_s=300.0),
        now=lambda: now[0],
    )
    assert len(manifest.shards) > 1
    assert written(tmp_path) == (list(range(12)), [])


def test_reading_takes_nothing_of_the_patience_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "wait_s", lambda attempts: 0.0)
    now = [0.0]
    refused: set[int] = set()
    answers = Semaphore(1)

    def parts(start: int) -> Iterator[Part]:
        for part in parts_of(4, set(), [1], start):
            assert answers.acquire(timeout=10), "nothing is asked while this is read"
            now[0] += 200.0
            yield part

    def ask(part: Part) -> Prediction:
        if part.start not in refused:
            refused.add(part.start)
            raise Unavailable("queue full")
        answers.release()
        return prediction(twice=part.tensors["x"] * 2)

    run_into(tmp_path, parts, ask, Options(max_in_flight=1, patience_s=60.0), now=lambda: now[0])
    assert written(tmp_path) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize("kind", [Unavailable, DeadlineExceeded])
def test_patience_ends_while_the_same_request_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[LadleError]
) -> None:
    monkeypatch.setattr(retries, "wait_s", lambda attempts: 0.0)
    now = [0.0]

    def ask(part: Part) -> Prediction:
        now[0] += 10.0
        raise kind("not now")

    with pytest.raises(ModelLost, match="no answer for 70 s: not now"):
        run_into(
            tmp_path,
            lambda start: parts_of(4, set(), [4], start),
            ask,
            Options(max_in_flight=1, patience_s=60.0),
            now=lambda: now[0],
        )


def test_bad_rows_after_good_ones_of_a_run_before_do_not_end_this_one(tmp_path: Path) -> None:
    bad = range(10, 300)

    def ask(part: Part) -> Prediction:
        if part.start in bad:
            raise InvalidInput("bad")
        return prediction(twice=part.tensors["x"] * 2)

    def run_to(rows: int, manifest: Manifest) -> Manifest:
        return run_into(
            tmp_path,
            lambda start: parts_of(rows, set(), [50], start),
            ask,
            Options(request_rows=1),
            manifest=manifest,
        )

    manifest = run_to(310, run_to(10, EMPTY))
    assert (manifest.rows, manifest.failed) == (310, len(bad))


def test_what_the_asking_thread_raises_reaches_the_caller(tmp_path: Path) -> None:
    def ask(part: Part) -> Prediction:
        raise ImportError("pictures need Pillow")

    with pytest.raises(ImportError, match="Pillow"):
        run_in(tmp_path, ask)
    assert not list(tmp_path.glob(".*"))


def test_what_the_reading_thread_raises_reaches_the_caller(tmp_path: Path) -> None:
    def parts(start: int) -> Iterator[Part]:
        yield from parts_of(4, set(), [4], start)
        raise BatchError("damaged")

    with pytest.raises(BatchError, match="damaged"):
        run_into(tmp_path, parts, lambda part: prediction(twice=part.tensors["x"] * 2))


def test_requests_that_never_come_back_end_the_run(tmp_path: Path) -> None:
    """As of a client whose deadlines fail it; `give_up` lets go of them."""
    released = Event()

    def ask(part: Part) -> Prediction:
        released.wait()
        raise Unavailable("given up")

    options = Options(timeout_s=0.01, patience_s=0.01)
    with (
        OutputFolder(tmp_path) as opened,
        pytest.raises(ModelLost, match=r"no answer and no error for .* requests in flight: 1"),
    ):
        dispatch(
            parts_of(4, set(), [4], 0),
            ask,
            output_to(opened, EMPTY, options),
            options,
            give_up=released.set,
        )
