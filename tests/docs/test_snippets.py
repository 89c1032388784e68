"""Every command and snippet of the README and the documentation, run.

They run as they stand, but for what a test has to put in the place of: `HOST:8500`, `HOST:8510`
and `HOST:8501` are a server's of the test's own, and `ladle serve` takes free ports and stops once
it serves. Before each block the folder `models`, or `/models`, holds `digits` in versions 1 and 2,
the first of them published by the quickstart's `ladle export`, with two epochs; after that,
exports go as far as the training. The name `images` stands for two images, `photo.png` and
`images.parquet` are there, and a store at `s3://models` has both versions. Blocks of a page share
names and files. What needs the internet or a container engine is checked for naming what there is.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pyarrow
import pytest
import yaml
from docs.blocks import Block, blocks, commands
from fakes import TIMEOUT_S
from http_store import HttpStore
from PIL import Image
from pyarrow import parquet

from ladle import cli
from ladle.client import Client
from ladle.client import errors as client_errors
from ladle.server import Config, Server, triton_cli
from ladle.server.core.errors import Code
from ladle.server.flags import settings
from ladle.server.rest.status_codes import _HTTP_STATUS

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
# What names flags, and has nothing that could be run.
OTHER_PAGES = [ROOT / name for name in ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")]
RUN = {"python", "sh"}
DATA = {"", "text", "json", "yaml", "toml"}
# Run by a shell, as they stand.
PROGRAMS = {"curl", "echo", "openssl", "python", ".venv/bin/python", "printf"}
MOST_NOT_RUN = 3
FRAMEWORKS = {"celery", "fastapi", "flask", "gunicorn", "httpx", "uvicorn"}
# These have environments of their own, in which test_engines.py runs what is shown.
ENGINES = {"apache_beam", "pyspark", "ray"}


class Harness(NamedTuple):
    """A server on the model of the quickstart, and what publishing it came to."""

    folder: Path
    exported: Any
    server: Server

    def port(self, at: int) -> str:
        """The port of one of the server's addresses: gRPC's first, then HTTP's."""
        return self.server.addresses[at].rpartition(":")[2]

    def here(self, text: str) -> str:
        """The text with what there is in the place of the addresses and folders that it names."""
        for folder in "/models/", "/var/log/":
            text = text.replace(f'"{folder}', f'"{Path.cwd()}{folder}')
        text = re.sub(r"[\w.-]+:85[01]0\b", f"127.0.0.1:{self.port(0)}", text)
        return re.sub(r"[\w.-]+:8501\b", f"127.0.0.1:{self.port(1)}", text)


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    from checking import run_in_this_process

    from ladle.export import pipeline

    folder = tmp_path_factory.mktemp("docs")
    made: list[Any] = []

    def export(*args: Any, **kwargs: Any) -> Any:
        made.append(real(*args, **kwargs))
        return made[-1]

    real = pipeline.export_model
    quickstart = "ladle export models/digits --data digits"
    assert any(quickstart in block.text for block in blocks(ROOT / "docs" / "quickstart.md"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(pipeline, "export_model", export)
        patch.setattr("ladle.export.saved_model.checked.run_in_subprocess", run_in_this_process)
        assert cli.main([*shlex.split(quickstart)[1:], "--epochs=2", "--quiet"]) == 0
    config = Config(
        port=None,
        rest_api_port=None,
        model_name="digits",
        model_base_path=str(folder / "models" / "digits"),
        drain_grace_seconds=0,
    )
    server = Server(config)
    server.start()
    yield Harness(folder, made[0], server)
    server.stop(lame_duck=False)


@pytest.fixture
def page_folder(
    setting: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The folder in which a page's blocks run; exports end before they train."""
    from ladle.export import pipeline
    from ladle.export.data import sources

    real = inspect.signature(pipeline.export_model)

    def export(*args: Any, **kwargs: Any) -> Any:
        real.bind(*args, **kwargs)
        return setting.exported

    monkeypatch.setattr(pipeline, "export_model", export)
    digits = sources.load_data("digits")
    monkeypatch.setattr(sources, "load_data", lambda *args, **options: digits)
    monkeypatch.setattr(sources, "read_source", lambda *args, **options: digits)
    with HttpStore().running() as http:
        for path in (setting.folder / "models" / "digits" / "1").rglob("*"):
            if path.is_file():
                name = path.relative_to(setting.folder / "models" / "digits" / "1").as_posix()
                for version in "1", "2":
                    http.objects[f"models/digits/{version}/{name}"] = path.read_bytes()
        for name, value in http.environment.items():
            monkeypatch.setenv(name, value)
        _write_images(tmp_path / "images.parquet")
        http.objects["models/images.parquet"] = (tmp_path / "images.parquet").read_bytes()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield from _page_folder(setting, tmp_path, monkeypatch)


def _write_images(path: Path) -> None:
    rows = [[0] * 64] * 3
    images = pyarrow.array(rows, pyarrow.list_(pyarrow.uint8()))
    parquet.write_table(pyarrow.table({"images": images}), path)


def _page_folder(
    setting: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    (tmp_path / "var" / "log").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("L", (8, 8)).save("photo.png")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]
    base_path = str(setting.folder / "models" / "digits")
    with Client(f"127.0.0.1:{setting.port(0)}") as client:
        if client.models("digits")[0].base_path != base_path:
            # By way of another name: under the same one the page's versions would serve on for
            # a while.
            client.reload({"meanwhile": base_path})
            client.reload({"digits": base_path})


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_what_a_page_says_runs(path: Path, setting: Harness, page_folder: Path) -> None:
    from ladle.export.saved_model.custom_signatures import custom_endpoints

    if "://models" in path.read_text():
        pytest.importorskip("obstore", reason="`make install` brings it")
    names: dict[str, Any] = {"images": np.zeros((2, 8, 8), np.uint8), "__name__": "page"}
    for block in blocks(path):
        assert block.language in RUN | DATA, f"{block.place}: {block.language}"
        if block.title:
            (page_folder / block.title).parent.mkdir(exist_ok=True)
            (page_folder / block.title).write_text(setting.here(block.text))
        if block.not_run:
            continue
        shutil.rmtree(page_folder / "models", ignore_errors=True)
        for version in "1", "2":
            shutil.copytree(
                setting.folder / "models" / "digits" / "1",
                page_folder / "models" / "digits" / version,
            )
        if block.language == "python":
            code = compile(setting.here(block.text), block.place, "exec")
            try:
                exec(code, names)
            except ModuleNotFoundError as error:
                if error.name in ENGINES:
                    continue
                if error.name not in FRAMEWORKS:
                    raise
                pytest.skip(f"no {error.name}; `make install` brings it")
        elif block.language == "sh":
            for command in commands(block.text):
                run(command, setting, block)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
    if "make" in names:  # a model and signatures of one's own, which no export has come to
        model = names["make"]((8, 8), 10)
        assert custom_endpoints(names["signatures"], model).keys() == {"best"}
    for name in "client", "fleet":
        if name in names:
            names[name].close()


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_a_page_begins_with_what_works_on_a_bare_machine(path: Path) -> None:
    """With an installation, or with a link to the page that has one: the quickstart."""
    first = next((b for b in blocks(path) if b.language in RUN and not b.not_run), None)
    if first is None:
        return
    if path.name in ("batching.md", "proxies.md"):  # their first commands come late
        before = path.read_text().splitlines()[: first.line]
        assert any("(quickstart.md)" in line for line in before)
        return
    assert commands(first.text)[:2] == [f"git clone {source()}", "cd ladle"]
    assert re.search(r"^(pip install |make )", first.text, re.MULTILINE), first.place


def run(command: str, setting: Harness, block: Block) -> None:
    """Run a command, or check it where that is all that can be done."""
    words = shlex.split(os.path.expandvars(command), comments=True)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        del words[0]
    program, *arguments = words
    if program in PROGRAMS:
        command = command.replace(".venv/bin/python", "python")
        ended = subprocess.run(
            ["sh", "-c", f"set -e; {setting.here(command)}"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert ended.returncode == 0, f"{block.place}: {command}: {ended.stderr}"
        is_error = re.match(r'\s*\{\s*"error"', ended.stdout)
        assert not is_error, f"{block.place}: {ended.stdout}"
        return
    known = HANDLERS.get(program)
    assert known is not None, f"{block.place}: nobody knows how to run {program}"
    known([setting.here(argument) for argument in arguments])


def ladle(arguments: list[str]) -> None:
    if arguments[0] == "serve":
        serve(arguments[1:])
    elif arguments[0] == "triton":
        serve_as(triton_cli.settings(arguments[1:]))
    elif arguments[0] == "rollout":
        assert cli.main(arguments) in (0, 1, 3), arguments  # whatever serves there, or nothing
    else:
        assert cli.main(arguments) == 0, arguments


def serve(arguments: list[str]) -> None:
    """Serve by these flags, on free ports, until the models are there."""
    serve_as(settings(arguments))


def serve_as(given: dict[str, Any]) -> None:
    given = given | {"port": None, "drain_grace_seconds": 0}
    if given.get("rest_api_port"):
        given["rest_api_port"] = None
    server = Server(Config(**given))
    server.start()
    try:
        assert all(map(server.manager.is_available, server.manager.names()))
    finally:
        server.stop(lame_duck=False)


def pip(arguments: list[str]) -> None:
    # As the checkout has them: what was installed may be older.
    declared = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    known = re.findall(r"^([a-z-]+) = \[", declared.partition("\n[")[0], re.MULTILINE)
    assert arguments[0] == "install"
    for wanted in arguments[1:]:
        name, _, extras = wanted.removesuffix("]").partition("[")
        assert name in ("ladle", ".", *FRAMEWORKS)
        assert set(filter(None, extras.split(","))) <= set(known)


def make(arguments: list[str]) -> None:
    for target in arguments:
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


def git(arguments: list[str]) -> None:
    verb, address = arguments
    assert verb == "clone"
    assert address == source()


def cd(arguments: list[str]) -> None:
    assert arguments == ["ladle"]  # what git clone has made


def python3(arguments: list[str]) -> None:
    assert arguments[:2] == ["-m", "venv"]
    assert arguments[2:] in ([".venv"], ["/opt/ladle"])


def cp(arguments: list[str]) -> None:
    path, _ = arguments
    assert (ROOT / path).is_file()


def systemctl(arguments: list[str]) -> None:
    *_, unit = arguments
    assert (ROOT / "deploy" / "systemd" / f"{unit}.service").is_file()


def dot(arguments: list[str]) -> None:
    assert arguments == [".venv/bin/activate"]


def kubectl(arguments: list[str]) -> None:
    verb, option, path = arguments
    assert verb == "apply"
    assert (ROOT / path / "kustomization.yaml" if option == "-k" else ROOT / path).is_file()


def docker(arguments: list[str]) -> None:
    wanted = {"build": "Dockerfile", "run": "Dockerfile", "compose": "compose.yaml"}
    assert (ROOT / wanted[arguments[0]]).exists()


HANDLERS: Mapping[str, Callable[[list[str]], None]] = {
    ".": dot,
    "/opt/ladle/bin/pip": pip,
    "cd": cd,
    "cp": cp,
    "git": git,
    "python3": python3,
    "systemctl": systemctl,
    "ladle": ladle,
    "tensorflow_model_server": serve,
    "pip": pip,
    "make": make,
    "kubectl": kubectl,
    "docker": docker,
}


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_first_prediction_is_of_a_digit_that_no_training_has_seen(page: str) -> None:
    from ladle.export import load_data

    shown = next(b.text for b in blocks(ROOT / page) if b.language == "python")
    rows = re.findall(r"^    (\[[\d, ]+\]),$", shown, re.MULTILINE)
    image = np.array([json.loads(row) for row in rows])
    digits = load_data("digits")
    (at,) = np.flatnonzero((digits.x_test == image).all(axis=(1, 2)))
    assert digits.labels[digits.y_test[at]] == "7"


def source() -> str:
    found = re.search(r'^Source = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_few_blocks_are_left_out_and_each_for_a_reason() -> None:
    left_out = [block for path in PAGES for block in blocks(path) if block.not_run]
    assert len(left_out) <= MOST_NOT_RUN, [block.place for block in left_out]


def test_blocks_are_found_with_what_is_said_of_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Title\n\n```sh\nladle a \\\n  b\n\n# why it's so\nladle c 'd\n# e'\n```\n\n"
        "<!-- not run: why -->\n\n"
        '````text title="x.config"\n```\n````\n'
    )
    first, second = blocks(page)
    assert (first.place, first.language, first.not_run, first.title) == ("page.md:3", "sh", "", "")
    assert commands(first.text) == ["ladle a    b", "ladle c 'd\n# e'"]
    assert (second.not_run, second.title, second.text) == ("why", "x.config", "```\n")


def test_what_servers_are_said_to_say_is_what_they_say() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    said = re.sub(r'"\s*\n?\s*f?"', "", sources)  # literals that go on in the next line
    table = (ROOT / "docs" / "errors.md").read_text().partition("## What servers say")[2]
    messages = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert len(messages) >= 10
    for message in messages:
        assert message in said, message


def test_codes_have_the_statuses_and_exceptions_that_the_table_gives_them() -> None:
    table = (ROOT / "docs" / "errors.md").read_text().partition("## What servers say")[0]
    rows = re.findall(r"^\| ([A-Z_, ]+) \| (\d+) \| ([^|]+) \|", table, re.MULTILINE)
    named = set()
    for names, status, exceptions in rows:
        for name in names.split(", "):
            named.add(name)
            assert _HTTP_STATUS[Code[name]] == int(status), name
            # The one that a code stands for comes first, and then what its text may tell of.
            first, *others = re.findall(r"[A-Z]\w+", exceptions)
            raised = client_errors.from_status(grpc.StatusCode[name], "", "")
            assert type(raised).__name__ == first, name
            assert all(hasattr(client_errors, other) for other in others), name
    unused = {"OK", "ALREADY_EXISTS", "OUT_OF_RANGE", "ABORTED"}  # ladle never answers with these
    assert named == {code.name for code in Code} - unused


def test_every_flag_that_is_named_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """In running text as well as in commands."""
    helps = [
        ["serve"],
        ["export"],
        ["health"],
        ["predict"],
        ["bench"],
        ["triton"],
        *(["models", c] for c in MODELS_COMMANDS),
    ]
    for command in helps:
        with pytest.raises(SystemExit, match="0"):
            cli.main([*command, "--help"])
    known = set(re.findall(r"--[a-z][a-z_-]+", capsys.readouterr().out)) | OTHERS_FLAGS
    for path in [*PAGES, *OTHER_PAGES]:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", path.read_text()))
        assert named <= known, f"{path.name}: {named - known}"


MODELS_COMMANDS = (
    "list",
    "show",
    "compare",
    "report",
    "label",
    "check",
    "rollback",
    "prune",
    "promote",
    "warmup",
)
# Of docker, gunicorn, nginx and systemctl, and curl's.
OTHERS_FLAGS = {
    "--build-arg",
    "--data-binary",
    "--entrypoint",
    "--file",
    "--health-cmd",
    "--http",
    "--init",
    "--now",
    "--preload",
    "--requeue",
    "--stop-timeout",
    "--tag",
}


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "api").glob("*.md")), ids=lambda p: p.name)
def test_the_reference_names_modules_that_mkdocstrings_finds(page: Path) -> None:
    """It reads sources, and goes into no folder of a package that has no `__init__.py`."""
    for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE):
        for portion in ("protos/python", "client", "server", "export"):
            _, package, *parts = name.split(".")
            folder = ROOT / portion / "ladle" / package
            if not folder.is_dir():
                continue
            for part in parts:
                folder /= part
                if folder.is_dir():
                    assert (folder / "__init__.py").is_file(), f"{name}: {folder}"
