"""`ladle rollout status`: what it prints, and its exit status."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rollout.test_fleet import part, server

from ladle.rollout.asking import status_url
from ladle.rollout.cli import main


@contextmanager
def answering(body: Any, code: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A server that answers so; gives its address, and the tokens that it got."""
    tokens: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/status.json"
            tokens.append(self.headers.get("authorization", ""))
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{http.server_port}", tokens
        finally:
            http.shutdown()
            thread.join()


GOOD = server(part("stable", 1), part("canary", 2))
WORSE = server(part("stable", 1), part("canary", 2, 200, 100))


@pytest.mark.parametrize(("answer", "status"), [(GOOD, 0), (WORSE, 1), (server(), 3)])
def test_the_exit_status_is_the_verdict(
    answer: Any, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(answer) as (address, _):
        assert main(["status", "--server", address]) == status
        assert capsys.readouterr().out.startswith("m, 1 server")
        assert main(["status", "--server", f"http://{address}/", "--json"]) == status
    (rollout,) = json.loads(capsys.readouterr().out)["rollouts"]
    assert (rollout["model"], rollout["servers"]) == ("m", 1)


def test_servers_of_a_fleet_are_added_up(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(GOOD) as (one, _), answering(GOOD) as (other, _):
        assert main(["status", "--server", f"{one},{other}"]) == 0
        assert "m, 2 servers" in capsys.readouterr().out
        assert main(["status", "--server", one, "--server", other, "--model", "m"]) == 0
        assert main(["status", "--server", one, "--model", "n"]) == 3
    assert "no roll-out of model n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        (b"<html>", 200, "can't be asked: expected JSON of a ladle server"),
        (b"[" * 100_000, 200, "can't be asked: expected JSON of a ladle server"),
        ({}, 200, "expected the status of a ladle server"),
        ({}, 404, "can't be asked: HTTP 404"),
        ({}, 401, "can't be asked: HTTP 401; it needs a token: --token-file"),
    ],
)
def test_what_can_not_be_asked_is_no_verdict(
    body: Any, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(body, code) as (address, _):
        assert main(["status", "--server", address]) == 3
    assert says in capsys.readouterr().err


def test_a_server_that_is_away_leaves_no_verdict_but_a_bad_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        away = f"127.0.0.1:{taken.getsockname()[1]}"
        with answering(GOOD) as (good, _), answering(WORSE) as (worse, _):
            assert main(["status", "--server", f"{good},{away}", "--json"]) == 3
            printed = capsys.readouterr()
            assert list(json.loads(printed.out)["unreachable"]) == [away]
            assert f"{away} can't be asked: " in printed.err
            assert main(["status", "--server", f"{worse},{away}"]) == 1


def test_a_token_is_sent_to_this_machine_and_nowhere_without_tls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text("secret\n")
    with answering(GOOD) as (address, tokens):
        assert main(["status", "--server", address, "--token-file", str(file)]) == 0
        assert tokens == ["Bearer secret"]
    with pytest.raises(SystemExit, match="2"):
        main(["status", "--server", "models.example:8501", "--token-file", str(file)])
    assert "expected https, or this machine" in capsys.readouterr().err
    file.write_text("")
    assert main(["status", "--server", address, "--token-file", str(file)]) == 2
    assert main(["status", "--server", address, "--ca", str(file)]) == 2
    assert main(["status", "--server", address, "--ca", str(tmp_path / "none")]) == 2


@pytest.mark.parametrize(
    "given", ["localhost", "a:b", "ftp://a:1", "http://a:1/x", "http://u@a:1", "", "http://:1"]
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="expected host:port or http"):
        status_url(given)
    with pytest.raises(SystemExit, match="2"):
        main(["status", "--server", given])


def test_addresses_of_both_kinds_are_taken() -> None:
    assert status_url("[::1]:8501") == "http://[::1]:8501/status.json"
    assert status_url("https://models:443/") == "https://models:443/status.json"
