"""Threads that ask stores: bounded, and none is the caller's."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from fakes import TIMEOUT_S
from server.core.remote.by_hand import ONE, Harness
from stores import publish

from ladle.server.core.remote.workers import Workers


def test_workers_of_a_store_that_stalls_hold_up_no_other(tmp_path: Path) -> None:
    workers = Workers(2, "test")
    gate, ran = threading.Event(), threading.Event()
    for _ in range(5):
        workers.submit("slow", gate.wait)  # type: ignore[arg-type]
    workers.submit("fast", ran.set)
    assert ran.wait(30)
    gate.set()
    workers.close()
    workers.submit("fast", pytest.fail)


def test_a_job_never_runs_in_the_thread_of_who_submits_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = Workers(2, "test")
    gate, ran = threading.Event(), threading.Event()
    workers.submit("s3://a", gate.wait)  # type: ignore[arg-type]

    def no_room(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", no_room)
        assert not workers.submit("s3://b", pytest.fail)
        assert workers.submit("s3://a", ran.set)  # the thread that runs takes it next
    gate.set()
    assert ran.wait(TIMEOUT_S)
    assert workers.submit("s3://b", lambda: None)
    workers.close()


def test_without_a_thread_a_look_and_a_fetch_come_later(tmp_path: Path) -> None:
    there = Harness(tmp_path)
    publish(there.store, 1, ONE)
    there.looks.has_threads = False
    assert "no thread can be had" in str(there.look().problem)
    there.looks.has_threads, there.fetches.has_threads = True, False
    assert "no thread can be had" in there.look().incomplete[1]
    there.fetches.has_threads = True
    assert there.look().problem is None
    assert there.content(1) == ONE
