"""Signals to `ladle serve`, in a process of its own, around a server that is none."""

from __future__ import annotations

import subprocess
import sys

from fakes import PATIENCE_S

PROGRAM = """
import os, signal, threading
import ladle.server.server as module
from ladle.server import cli

def terminate():
    os.kill(os.getpid(), signal.SIGTERM)

class Server:
    addresses = ()

    def __init__(self, config): {made}

    def open(self): {opened}

    def wait_for_models(self): pass

    def stop(self, *, lame_duck): print("stopped", flush=True)

class Ignoring:
    def __del__(self):
        terminate()
        threading.Event().wait(0.1)

module.Server = Server
cli.main(["--model_base_path=nowhere"])
"""


def served(made: str = "pass", opened: str = "pass") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(made=made, opened=opened)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=4 * PATIENCE_S
    )


def test_a_stop_while_the_server_is_made_is_one() -> None:
    """As when a pod is taken away that has only begun to import TensorFlow."""
    ended = served(made="terminate(); threading.Event().wait()")
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\n")
    assert ended.stderr == ""


def test_a_stop_while_models_load_is_one() -> None:
    ended = served(opened="terminate(); threading.Event().wait()")
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\nstopped\n")
    assert ended.stderr == ""


def test_a_stop_is_not_lost_where_exceptions_are_ignored() -> None:
    ended = served(opened="Ignoring()")
    assert (ended.returncode, ended.stdout) == (0, "ladle: stopping\nstopped\n")
