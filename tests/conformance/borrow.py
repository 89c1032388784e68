"""Lets the environment that runs this import what another one has installed.

Usage: borrow.py VENV_DIR
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def main() -> None:
    """Write the .pth file, which later starts of this Python read."""
    venv = str(Path(sys.argv[1]).resolve())
    packages = Path(sysconfig.get_path("purelib", vars={"base": venv, "platbase": venv}))
    if not packages.is_dir():
        raise SystemExit(f"{venv} is no environment of Python {sysconfig.get_python_version()}")
    # A mere path would not do: only in a site directory does Python read the .pth files, and an
    # editable install of ladle is nothing but such a file.
    line = f"import site; site.addsitedir({str(packages)!r})\n"
    Path(sysconfig.get_path("purelib"), "borrowed.pth").write_text(line, encoding="utf-8")


if __name__ == "__main__":
    main()
