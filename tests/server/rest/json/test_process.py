from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from fakes import TIMEOUT_S

from ladle.server.core.errors import Code, DeadlineExceeded, InvalidArgument, ServingError
from ladle.server.rest.json.process import JsonProcesses
from ladle.server.rest.json.text import parse


@pytest.fixture
def processes() -> Iterator[JsonProcesses]:
    processes = JsonProcesses(2)
    yield processes
    processes.close()


def deadline() -> float:
    return time.monotonic() + TIMEOUT_S


def test_another_process_answers_and_stays_for_the_next_call(processes: JsonProcesses) -> None:
    first = processes.call(deadline(), os.getpid)
    assert first != os.getpid()
    assert processes.call(deadline(), os.getpid) == first
    assert processes.call(deadline(), parse, b'{"a": [1, Inf]}') == {"a": [1, math.inf]}


def test_messages_are_as_large_as_they_come(processes: JsonProcesses) -> None:
    text = b'"' + b"x" * (3 << 20) + b'"'
    assert processes.call(deadline(), parse, text) == "x" * (3 << 20)


def test_a_refusal_keeps_its_code_and_its_words(processes: JsonProcesses) -> None:
    with pytest.raises(ServingError, match="The document is empty") as refused:
        processes.call(deadline(), parse, b" ")
    assert refused.value.code is InvalidArgument.code


def test_what_is_wrong_with_us_is_internal(processes: JsonProcesses) -> None:
    with pytest.raises(ServingError, match="AttributeError while JSON was read") as failed:
        processes.call(deadline(), parse, 7)
    assert failed.value.code is Code.INTERNAL


def test_a_call_past_its_deadline_is_ended_and_the_next_goes_on(processes: JsonProcesses) -> None:
    with pytest.raises(DeadlineExceeded, match="--rest_api_timeout_in_ms"):
        processes.call(time.monotonic(), signal.pause)
    assert processes.call(deadline(), parse, b"1") == 1


def test_a_process_that_dies_takes_its_own_call_with_it_alone(processes: JsonProcesses) -> None:
    process = processes.call(deadline(), os.getpid)
    os.kill(process, signal.SIGKILL)
    with pytest.raises(ServingError, match="ended early") as failed:
        processes.call(deadline(), parse, b"1")
    assert failed.value.code is Code.INTERNAL
    assert processes.call(deadline(), parse, b"2") == 2


def test_no_more_run_at_a_time_than_allowed() -> None:
    processes = JsonProcesses(1)
    with ThreadPoolExecutor(4) as pool:
        pids = set(pool.map(lambda _: processes.call(deadline(), os.getpid), range(8)))
    processes.close()
    assert len(pids) == 1


def test_without_another_process_this_one_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nothing/here")
    assert JsonProcesses(1).call(deadline(), os.getpid) == os.getpid()


def test_a_closed_pool_ends_its_processes() -> None:
    processes = JsonProcesses(1)
    pid = processes.call(deadline(), os.getpid)
    processes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
