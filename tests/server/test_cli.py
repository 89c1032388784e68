"""Signals to `ladle serve`, in a process of its own, around a server that is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import TIMEOUT_S

from ladle.cli import serve
from ladle.server import cli
from ladle.server.flags import settings

PROGRAM = """
import os, signal, threading
import ladle.server.server as module
from ladle.server import cli

def terminate():
    os.kill(os.getpid(), signal.SIGTERM)

class Server:
    addresses = ()

    def __init__(self, config, *, owns_process): {made}

    def open(self): {opened}

    def wait_for_models(self): {waited}

    def stop(self, *, lame_duck):
        {stopping}
        print("stopped", flush=True)

module.Server = Server
cli.main(["--model_base_path=nowhere", "--drain_grace_seconds={grace}"])
"""


def served(
    made: str = "pass",
    opened: str = "pass",
    waited: str = "pass",
    stopping: str = "pass",
    *,
    under: tuple[str, ...] = (),
    grace: float = 0.1,
) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(
        made=made, opened=opened, waited=waited, stopping=stopping, grace=grace
    )
    return subprocess.run(
        [*under, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT_S,
    )


def test_a_stop_while_the_server_is_made_is_one() -> None:
    """As when a pod is taken away that has only begun to import TensorFlow."""
    ended = served(made="terminate(); threading.Event().wait()")
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\n")
    assert ended.stderr == ""


def test_a_stop_while_models_load_is_one() -> None:
    ended = served(waited="terminate(); threading.Event().wait()")
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\nstopped\n")
    assert ended.stderr == ""


def test_a_stop_does_not_wait_for_a_server_that_never_opens() -> None:
    ended = served(opened="terminate(); threading.Event().wait()")
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\n")
    assert ended.stderr == ""


def test_a_stop_does_not_take_its_whole_grace_while_a_store_hangs() -> None:
    ended = served(made="terminate(); threading.Event().wait()", grace=1e6)
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\n")


def test_a_start_that_a_stop_ends_has_not_failed() -> None:
    """Whoever waits for a model hears that it did not load."""
    ended = served(
        made="self.ended = threading.Event()",
        waited="terminate(); self.ended.wait(); from ladle.server.wiring.startup import "
        "StartupError; raise StartupError('it did not load')",
        stopping="self.ended.set(); [t.join() for t in threading.enumerate() if t.name == 'start']",
    )
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\nstopped\n")
    assert ended.stderr == ""


HANG_UP = "os.kill(os.getpid(), signal.SIGHUP)"
# The tests themselves may run under nohup.
OUT_OF_NOHUP = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_terminal_that_goes_stops_the_server_as_sigterm_does() -> None:
    waited = f"{HANG_UP}; threading.Event().wait()"
    ended = served(waited=waited, under=(sys.executable, "-c", OUT_OF_NOHUP))
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\nstopped\n")
    assert ended.stderr == ""


def test_under_nohup_a_terminal_may_go() -> None:
    ended = served(waited=f"{HANG_UP}; print('up', flush=True); terminate()", under=("nohup",))
    assert (ended.returncode, ended.stdout) == (0, "up\nladle: stopping\nstopped\n")


def test_sighup_cuts_no_stop_short() -> None:
    """As systemd's SendSIGHUP sends it."""
    ended = served(waited="terminate()", stopping=f"{HANG_UP}; {HANG_UP}")
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\nstopped\n")
    assert ended.stderr == ""


def test_a_start_that_fails_is_said_and_ends_the_process() -> None:
    ended = served(waited="raise RuntimeError('odd')")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "the server failed to start" in ended.stderr


WRITING = """
import json, os, subprocess, sys
import ladle.server.server as module
from ladle.server import cli

def write(line, descriptor=2):
    try:
        os.write(descriptor, line)
    except OSError:
        pass  # as TensorFlow does

class Server:
    addresses = ("0.0.0.0:1", "http://0.0.0.0:2")

    def __init__(self, config, *, owns_process): pass

    def open(self): write(b"2026-11-29 10:00:00.1: W tensorflow/x.cc:1] slow\\n")

    def wait_for_models(self):
        import logging, signal
        logging.getLogger("ladle.x").info("loaded model=%s", "m")
        write(b"printed\\n", 1)
        os.system("echo from another process")
        write(b"E0000 00:00:1.2 x.cc] bad\\nlast words without an end")
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(self, *, lame_duck): open(sys.argv[1], "w").write("drained")

module.Server = Server
cli.main(["--model_base_path=nowhere", *sys.argv[2:]])
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "redirected", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1", ">&-", "2>&-", ">&- 2>&- <&-"]
)
def test_a_drain_goes_on_whatever_becomes_of_the_output(
    tmp_path: Path, redirected: str, log_format: str
) -> None:
    if "/dev/full" in redirected and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    command = f'exec "$0" -c "$1" "$2" --log_format={log_format} {redirected}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, WRITING, str(tmp_path / "drained")],
        capture_output=True,
        timeout=4 * TIMEOUT_S,
    )
    assert done.returncode == 0
    assert (tmp_path / "drained").read_text() == "drained"


def test_a_reader_who_has_gone_ends_no_server(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-c", WRITING, str(tmp_path / "drained")],
            stdout=gone,
            stderr=gone,
            timeout=4 * TIMEOUT_S,
        )
    assert done.returncode == 0
    assert (tmp_path / "drained").exists()


def test_as_json_every_line_is_json_whoever_writes_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITING, str(tmp_path / "drained"), "--log_format=json"],
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT_S,
    )
    said = [json.loads(line)["message"] for line in done.stdout.splitlines()]
    assert said == [
        "listening on 0.0.0.0:1 (gRPC)",
        "listening on http://0.0.0.0:2 (HTTP; status page: http://localhost:2/)",
        "stopping",
    ]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    levels = {event["message"]: event["level"] for event in events}
    assert levels == {
        "2026-11-29 10:00:00.1: W tensorflow/x.cc:1] slow": "warning",
        "loaded model=m": "info",
        "printed": "info",
        "from another process": "info",
        "E0000 00:00:1.2 x.cc] bad": "error",
        "last words without an end": "info",
    }


def test_tensorflow_model_server_waits_for_models_unless_it_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[list[str]] = []

    def run(arguments: list[str]) -> int:
        given.append(arguments)
        return 0

    monkeypatch.setattr("ladle.cli.main", run)
    monkeypatch.setattr("sys.argv", ["tensorflow_model_server", "--port=1"])
    assert serve() == 0
    (arguments,) = given
    assert arguments[0] == "serve"
    assert settings(arguments[1:]) == {"wait_for_models": True, "port": 1}
    later = settings([*arguments[1:], "--wait_for_models=false"])
    assert later == {"wait_for_models": False, "port": 1}


def test_as_json_bad_settings_are_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.serve({"log_format": "json"}) == 2
    (line,) = capfd.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["level"] == "error"
    assert "--model_base_path" in event["message"]
