"""Installs a built wheel in an empty environment and uses it there; part of `make dist`.

    python release/try_wheel.py dist

The environment gets what the wheel depends on, and nothing of this checkout. The command has to say
the wheel's version, and the client's example has to run against the server that it starts itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "embedded.py"
TIMEOUT_S = 600


def main(dist: Path) -> int:
    """Try the one wheel in `dist` and return the exit status."""
    wheels = sorted(dist.glob("ladle-*.whl"))
    if len(wheels) != 1:
        print(f"{dist}: expected one wheel of ladle, got {len(wheels)}", file=sys.stderr)
        return 1
    wheel = wheels[0].resolve()
    version = wheel.name.split("-")[1]
    with tempfile.TemporaryDirectory(prefix="ladle-wheel-") as folder:
        environment = Path(folder) / "env"
        venv.create(environment, with_pip=True)
        commands = environment / "bin"
        try:
            _run(
                folder, commands / "python", "-m", "pip", "install", "--quiet", wheels[0].resolve()
            )
            said = _run(folder, commands / "ladle", "--version")
            if said != f"ladle {version}":
                print(f'ladle --version: expected "ladle {version}", got "{said}"', file=sys.stderr)
                return 1
            print(_run(folder, commands / "python", EXAMPLE))
        except subprocess.CalledProcessError as error:
            print(error, error.stderr, sep="\n", file=sys.stderr)
            return 1
    print(f"{wheel.name}: installs and works in an empty environment")
    return 0


def _run(folder: str, *command: str | Path) -> str:
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,  # where nothing of the checkout is found
        env={name: value for name, value in os.environ.items() if name not in hidden},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    return done.stdout.strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FOLDER-WITH-THE-WHEEL")
    sys.exit(main(Path(sys.argv[1])))
