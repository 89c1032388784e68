"""What `pip install ladle` brings, in an environment that has nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
THE_THREE = "import numpy, grpc, google.protobuf.descriptor_pool"
THE_CLIENT = "import ladle.client"
MAX_RATIO = 1.3
# All of ladle: the server's part is half of it.
MAX_BYTES = 4_000_000

PREDICT = """
import numpy as np
from ladle.client import Client
from ladle.client.testing import FunctionModel, FunctionServer

model = FunctionModel(
    lambda inputs: {"y": inputs["x"] * 2},
    inputs={"x": ("float32", (-1, 2))},
    outputs={"y": ("float32", (-1, 2))},
)
with FunctionServer({"m": model}) as server, Client(server.address) as client:
    x = np.ones((3, 2), np.float32)
    assert client.predict("m", x)["y"].tolist() == (x * 2).tolist()
    assert [p["y"].tolist() for p in client.stream("m", [x, x])] == [(x * 2).tolist()] * 2
"""
LISTED = """
import json
from importlib.metadata import distributions
print(json.dumps(sorted(found.name.lower().replace("_", "-") for found in distributions())))
"""


class Installed:
    """An environment with ladle in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # Nothing of this checkout may be found, and what is compiled may be kept.
        hidden = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
        return subprocess.run(
            [str(self.python), *arguments],
            env={k: v for k, v in os.environ.items() if k not in hidden},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )

    def run(self, code: str) -> str:
        ended = self.start("-c", code)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def import_s(self, statement: str) -> float:
        """Return the CPU time of an import, which other processes disturb less than the clock's."""
        timed = f"import time; t = time.process_time(); {statement}"
        return float(self.run(f"{timed}; print(time.process_time() - t)"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    folder = tmp_path_factory.mktemp("plain")
    wheel = build_wheel(folder / "source")
    environment = Installed(folder / "env")
    venv = [sys.executable, "-m", "venv", "--without-pip", str(environment.folder)]
    subprocess.run(venv, check=True)
    constraints = folder / "constraints.txt"  # the versions that the other tests run with
    names = ("grpcio", "numpy", "protobuf")
    constraints.write_text("".join(f"{name}=={version(name)}\n" for name in names))
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", str(environment.python), "install"),
            *("--quiet", "--only-binary=:all:", "--constraint", str(constraints), str(wheel)),
            *("--retries=1", "--timeout=20", "--disable-pip-version-check"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        reason = f"pip could not install ladle: {ended.stderr.strip()}"
        if os.environ.get("CI") or "No matching distribution" not in ended.stderr:
            pytest.fail(reason)
        pytest.skip(f"is there a network? {reason}")
    environment.run(THE_CLIENT)  # compiled, and in the file cache
    yield environment
    shutil.rmtree(folder)


def build_wheel(source: Path) -> Path:
    """Build it from a copy, since a build writes into the source."""
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("protos", "client", "server", "export"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    ended = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (wheel,) = (source / "dist").iterdir()
    return wheel


def test_it_brings_the_three_and_what_they_need(installed: Installed) -> None:
    found = set(json.loads(installed.run(LISTED)))
    assert {"ladle", "grpcio", "numpy", "protobuf"} <= found
    assert found <= {"ladle", "grpcio", "numpy", "protobuf", "typing-extensions"}  # grpcio's


def test_it_predicts_without_tensorflow(installed: Installed) -> None:
    loaded = "import sys; assert not {'tensorflow', 'PIL', 'ladle.server'} & set(sys.modules)"
    installed.run(f"{PREDICT}\n{loaded}")
    installed.run("import importlib.util; assert importlib.util.find_spec('tensorflow') is None")


def test_what_needs_an_extra_says_so_in_one_line(installed: Installed) -> None:
    ended = installed.start("-m", "ladle.cli", "serve", "--model_name=m", "--model_base_path=/m")
    assert ended.returncode != 0
    (line,) = ended.stderr.splitlines()
    assert "pip install 'ladle[server]'" in line


def test_what_the_packages_page_tells_links_to_no_file(installed: Installed) -> None:
    """There are none beside it there."""
    told = 'from importlib.metadata import metadata; print(metadata("ladle")["Description"])'
    page = installed.run(told)
    assert page.startswith("# ladle")
    assert re.findall(r"\]\((?!https?:)[^)]*\)", page) == []


def test_it_adds_little_to_the_size_of_the_three(installed: Installed) -> None:
    """Counts what the wheel brings, and not the bytecode that Python makes of it."""
    told = """
from importlib.metadata import distribution
from pathlib import Path
files = [file for file in distribution("ladle").files if file.suffix != ".pyc"]
print(len(files), sum(Path(file.locate()).stat().st_size for file in files))
"""
    count, nbytes = map(int, installed.run(told).split())
    assert count > 100
    assert nbytes < MAX_BYTES


def test_its_import_takes_little_longer_than_the_threes(installed: Installed) -> None:
    three_s, client_s = [], []
    for _ in range(20):
        three_s.append(installed.import_s(THE_THREE))
        client_s.append(installed.import_s(THE_CLIENT))
        # The least of several runs is the one that nothing else got in the way of.
        if len(client_s) >= 3 and min(client_s) <= MAX_RATIO * min(three_s):
            return
    ratio = min(client_s) / min(three_s)
    raise AssertionError(f"expected at most {MAX_RATIO} times {THE_THREE!r}, got {ratio:.2f}")
