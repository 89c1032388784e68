from __future__ import annotations

import io
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes import TIMEOUT_S, FakeLoader
from server.monitoring.conftest import PREDICT, Watch, predict_request
from server.monitoring.test_request_log import Counts, observation

from ladle.server import Config, Server
from ladle.server.core.errors import InvalidArgument
from ladle.server.monitoring.access_log import AccessLog, SharedFiles
from ladle.server.monitoring.logs import JsonFormatter, TextFormatter, configure, pairs
from ladle.server.wiring.startup import StartupError

EVIL = 'a\n2026 I fake\r\x1b[31m\u2028"b" c=d'


def logged(
    formatter: logging.Formatter, message: str, *arguments: Any, failed: bool = False
) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log = logging.Logger("ladle.test")
    log.addHandler(handler)
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        log.warning(message, *arguments, exc_info=error if failed else None)
    return stream.getvalue()


@pytest.mark.parametrize("failed", [False, True])
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_event_is_one_printable_line_whatever_it_quotes(
    formatter: logging.Formatter, failed: bool
) -> None:
    line = logged(formatter, "loading model=%s version=%d", EVIL, 3, failed=failed)

    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert ("ValueError" in line) == failed


def test_json_has_the_fields_of_a_message_apart() -> None:
    event = json.loads(logged(JsonFormatter(), "loading %s model=%s load_s=%.2f", "it", EVIL, 1.5))

    assert event["message"].startswith("loading it model=a\n")
    assert (event["model"], event["load_s"], event["level"]) == (EVIL, 1.5, "warning")
    assert event["time"].endswith("Z")


def test_json_takes_messages_of_any_kind() -> None:
    assert json.loads(logged(JsonFormatter(), "100% of it"))["message"] == "100% of it"
    assert json.loads(logged(JsonFormatter(), "%s", {"a": 1}))["message"] == "{'a': 1}"


def test_pairs_can_t_be_forged() -> None:
    line = pairs({"model": EVIL, "plain": "m", "n": 3})

    assert line.isprintable()
    assert line.startswith('model="a\\n2026')
    assert line.endswith("plain=m n=3")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_each_request_has_its_line(watch: Watch, tmp_path: Path, log_format: str) -> None:
    path = tmp_path / "access.log"
    watched = watch(access_log=str(path), log_format=log_format)
    call: Any = watched.channel.unary_unary(PREDICT, None, None)
    call(predict_request(rows=2), metadata=[("x-request-id", "mine-1")], timeout=TIMEOUT_S)
    with pytest.raises(grpc.RpcError):
        call(
            predict_request(model="no\nbody"),
            metadata=[("x-request-id", "no id =")],
            timeout=TIMEOUT_S,
        )
    watched.http.post(
        "/v1/models/m:predict", json={"instances": [[1, 2]]}, headers={"x-request-id": "mine-2"}
    )
    watched.server.stop(lame_duck=False)

    lines = path.read_text().splitlines()
    assert len(lines) == 3
    if log_format == "text":
        assert "request_id=mine-1 entrypoint=GRPC method=Predict code=OK" in lines[0]
        assert r'model="no\nbody"' in lines[1]
        return
    answered, refused, over_rest = map(json.loads, lines)
    assert (answered["request_id"], answered["model"], answered["version"]) == ("mine-1", "m", 1)
    assert (answered["rows"], answered["code"]) == (2, "OK")
    assert answered["took_ms"] >= answered["compute_ms"] >= 0
    assert refused["request_id"] not in ("", "no id =")
    assert (refused["code"], refused["model"]) == ("NOT_FOUND", "no\nbody")
    assert "Servable not found" in refused["error"]
    assert (over_rest["request_id"], over_rest["entrypoint"]) == ("mine-2", "REST")


def test_what_the_writer_is_behind_with_is_dropped_and_counted(tmp_path: Path) -> None:
    counts = Counts()
    log = AccessLog(str(tmp_path / "log"), "text", counts, max_pending=2)
    written = 0
    while not counts.dropped:  # the writer may be quick for a while
        observation().end(b"", log)
        written += 1
    log.stop(TIMEOUT_S)

    assert counts.dropped == ["queue_full"]
    assert len((tmp_path / "log").read_text().splitlines()) == written - 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is full")
def test_what_cannot_be_written_is_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = Counts()
    log = AccessLog("/dev/full", "text", counts)
    for _ in range(3):
        observation().end(b"", log)
    log.stop(TIMEOUT_S)
    assert counts.dropped == ["write_failed"] * 3
    (said,) = caplog.messages
    assert said.startswith("the access log can't be written error=[Errno 28]")


def test_processes_that_turn_the_same_files_lose_no_line(tmp_path: Path) -> None:
    """Each handler stands for a process: it has opened the file by itself."""
    path = tmp_path / "log"
    handlers = [SharedFiles(path, maxBytes=200, backupCount=20) for _ in range(3)]
    for number in range(90):
        line = f"line {number} of many"
        handlers[number % 3].handle(logging.LogRecord("access", 20, "", 0, line, None, None))
    for handler in handlers:
        handler.close()
    files = sorted(tmp_path.iterdir())
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert sorted(lines) == sorted(f"line {number} of many" for number in range(90))
    assert all(file.stat().st_size <= 200 for file in files)
    assert len(files) <= 1 + sum(map(len, lines)) // 150  # full ones, but for the last


def test_a_file_that_was_moved_away_is_followed_by_another(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handler = SharedFiles(path, maxBytes=10_000, backupCount=1)
    for line in ("one", "two"):
        handler.handle(logging.LogRecord("access", 20, "", 0, line, None, None))
        path.rename(tmp_path / line)
    handler.close()
    assert (tmp_path / "one").read_text() == "one\n"
    assert (tmp_path / "two").read_text() == "two\n"


def test_lines_name_the_worker_where_there_are_several(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "log"), "json", Counts(), worker=2)
    observation().end(b"", log)
    log.stop(TIMEOUT_S)
    assert json.loads((tmp_path / "log").read_text())["worker"] == 2

    record = logging.LogRecord("x", 20, "", 0, "loaded", None, None)
    assert json.loads(JsonFormatter(2).format(record))["worker"] == 2
    assert " I w2 x loaded" in TextFormatter(2).format(record)
    assert "worker" not in json.loads(JsonFormatter().format(record))


def test_a_fault_of_ours_is_logged_with_the_request_s_id(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = watch()
    watched.model.function = lambda inputs: {}  # lacks the output that is asked for
    call: Any = watched.channel.unary_unary(PREDICT, None, None)
    with pytest.raises(grpc.RpcError):
        call(predict_request(), metadata=[("x-request-id", "abc")], timeout=TIMEOUT_S)

    (record,) = [r for r in caplog.records if "request failed" in r.message]
    assert "request_id=abc" in record.message


def test_ids_that_are_made_here_differ() -> None:
    seen = [observation() for _ in range(3)]

    assert len({s.request_id for s in seen}) == 3
    assert seen[0].request_id == seen[0].request_id
    assert InvalidArgument("x").reason == ""


def test_an_access_log_that_can_t_be_written_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"--access_log: .* can't be written: Is a"):
        Server(Config(model_base_path=str(tmp_path), access_log=str(tmp_path)))


def test_a_server_that_can_not_be_made_leaves_no_access_log_open(tmp_path: Path) -> None:
    (tmp_path / "monitoring.txt").write_text('prometheus_config { enable: true path: "/livez" }')
    config = Config(
        model_base_path=str(tmp_path),
        rest_api_port=None,
        access_log=str(tmp_path / "log"),
        monitoring_config_file=str(tmp_path / "monitoring.txt"),
    )
    with pytest.raises(StartupError, match="something else answers at /livez"):
        Server(config, load=FakeLoader())
    assert "access log" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("flag", ["ssl_config_file", "auth_tokens_file", "monitoring_config_file"])
def test_files_are_read_before_the_access_log_is_opened(tmp_path: Path, flag: str) -> None:
    config = Config(
        model_base_path=str(tmp_path),
        access_log=str(tmp_path / "log"),
        **{flag: str(tmp_path / "nowhere")},  # type: ignore[arg-type]
    )
    with pytest.raises(StartupError, match=f"--{flag}.*nowhere: "):
        Server(config, load=FakeLoader())
    assert not (tmp_path / "log").exists()


def test_an_access_log_goes_where_the_log_goes() -> None:
    """With --log_format=json the standard error is turned into JSON, which this is already."""
    written = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure("json", written)
        log = AccessLog("-", "json", Counts())
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    observation().end(b"", log)
    log.stop(TIMEOUT_S)
    (line,) = written.getvalue().splitlines()
    assert json.loads(line)["method"] == observation().api


def test_a_fifo_that_nobody_reads_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="No such device"):
        AccessLog(str(tmp_path / "log"), "text", Counts())
