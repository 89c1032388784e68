"""Publish again and again, each time failing one step later; a program for test_publish.py.

`failing_publisher.py BASE_PATH FAILURE [VERSION]` makes BASE_PATH/<step>/model a base path that
holds version 1, and publishes version 2 there, as the next one or as the VERSION given. It meets
FAILURE at the step-th time that Python is about to touch the file system.
It prints a line of JSON for each step, and stops after the first
publishing that gets through. Every step runs in a process of its own.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from itertools import count
from pathlib import Path
from typing import Any

from ladle.export import PublishError
from ladle.export.publishing.publish import publish, staging_folder


class FailAtStep:
    """An audit hook: Python tells it of every open, mkdir, listing, rename and removal."""

    def __init__(self, step: int, failure: str) -> None:
        self.steps_left = step
        self.failure = failure

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Let the steps before the chosen one pass."""
        if event != "open" and not event.startswith("os."):
            return
        self.steps_left -= 1
        if self.steps_left != 0:
            return
        match self.failure:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "no-space":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "interrupt":
                raise KeyboardInterrupt


def write_version(folder: Path) -> None:
    """Write what stands for a SavedModel."""
    (folder / "variables").mkdir()
    (folder / "variables" / "data").write_bytes(b"weights")
    (folder / "saved_model.pb").write_bytes(b"graph")


def publish_once(base_path: Path, version: int | None) -> str:
    """Publish a version, and return how that ended."""
    try:
        with staging_folder(base_path) as folder:
            write_version(folder)
            publish(folder, version)
    except (PublishError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "published"


def main(root: Path, failure: str, version: int | None = None) -> None:
    """Fail at every step in turn."""
    for step in count(1):
        base_path = root / str(step) / "model"
        (base_path / "1").mkdir(parents=True)
        write_version(base_path / "1")
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            hook = FailAtStep(step, failure)
            sys.addaudithook(hook)
            outcome = publish_once(base_path, version)
            reached = hook.steps_left <= 0
            print(json.dumps({"step": step, "outcome": outcome, "reached": reached}), flush=True)
            os._exit(0 if reached else 3)
        _, status = os.waitpid(child, 0)
        match os.waitstatus_to_exitcode(status):
            case 0:
                continue
            case 3:
                return
            case code if code == -signal.SIGKILL:
                print(json.dumps({"step": step, "outcome": "killed", "reached": True}))
            case code:
                raise SystemExit(f"step {step}: the publisher ended with {code}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
