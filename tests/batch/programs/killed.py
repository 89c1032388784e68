"""`ladle predict` in a process of its own, which kills itself at a step: `killed.py STEP N ...`.

STEP is what the output calls it, N says which time of it; the rest are the command's arguments.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

from ladle.batch import cli, execute
from ladle.batch.tasks import execute as tasks


def main() -> int:
    """Run the command; it doesn't return if the step comes."""
    step, left = sys.argv[1], int(sys.argv[2])

    def on_step(name: str) -> None:
        nonlocal left
        left -= name == step
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    execute.execute = partial(execute.execute, on_step=on_step)
    tasks.execute_tasks = partial(tasks.execute_tasks, on_step=on_step)
    return cli.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
