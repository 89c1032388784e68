"""The files that GitHub and pre-commit read, against their schemas and against the Makefile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        *(("github-workflows", path) for path in WORKFLOWS),
        *(("github-issue-forms", path) for path in FORMS),
        ("github-issue-config", GITHUB / "ISSUE_TEMPLATE" / "config.yml"),
        ("compose-spec", ROOT / "compose.yaml"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_file_fits_its_schema(schema: str, path: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_finds_mistakes(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yml"
    wrong.write_text((GITHUB / "workflows" / "ci.yml").read_text().replace("runs-on", "run-on"))
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    done = subprocess.run([*command, "vendor.github-workflows", str(wrong)], capture_output=True)
    assert done.returncode == 1


def test_the_workflows_pass_their_linter() -> None:
    beside = str(Path(sys.executable).parent)
    actionlint = shutil.which("actionlint", path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if actionlint is None:
        reason = "no actionlint; .ci/actionlint brings it where Go is"
        if os.environ.get("CI") and shutil.which("go"):
            pytest.fail(reason)  # CI that skips this would guard nothing
        pytest.skip(reason)
    command = [actionlint, "-shellcheck=", *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_python_that_the_package_names_is_tested() -> None:
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject())
    assert (
        loaded(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
        == named
    )


def test_nothing_but_publishing_may_have_an_identity() -> None:
    for path in WORKFLOWS:
        workflow = loaded(path)
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            identity = {"id-token": "write"} if name == "publish" else None
            assert job.get("permissions") == identity, f"{path.name}: {name}"


def test_what_the_workflows_make_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set()
    for path in WORKFLOWS:
        targets |= set(re.findall(r"run: make ([\w-]+)", path.read_text()))
    assert targets == {
        *("install", "native-test", "native-fuzz", "test", "docs", "dist", "release-check")
    }
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_a_release_publishes_what_its_jobs_have_built() -> None:
    jobs = loaded(GITHUB / "workflows" / "release.yml")["jobs"]
    publish = jobs.pop("publish")
    assert publish["needs"] == sorted(jobs)
    for name, job in jobs.items():
        steps = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
        assert [step["with"]["path"] for step in steps] == ["dist/"], name
    (download,) = (step for step in publish["steps"] if "download" in step["uses"])
    assert download["with"] == {"path": "dist/", "merge-multiple": True}


def test_the_native_transport_has_wheels_where_the_extra_wants_them() -> None:
    matrix = loaded(GITHUB / "workflows" / "release.yml")["jobs"]["native"]["strategy"]["matrix"]
    built = {tuple(target["target"].split("-")[::2]) for target in matrix["include"]}
    assert built == {("x86_64", "linux"), ("aarch64", "linux"), ("aarch64", "darwin")}
    requirement = native_requirement()
    assert requirement.marker is not None
    machines = [("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64")]
    others = [("darwin", "x86_64"), ("linux", "riscv64"), ("win32", "AMD64")]
    for platform, machine in machines + others:
        wanted = requirement.marker.evaluate(
            {"sys_platform": platform, "platform_machine": machine}
        )
        assert wanted == ((platform, machine) in machines), (platform, machine)


def test_the_extra_wants_the_native_transport_of_the_same_version() -> None:
    version = re.search(r'^version = "(.*)"$', pyproject(), re.MULTILINE)
    assert version is not None
    assert str(native_requirement().specifier) == f"=={version[1]}"


def test_a_commit_is_linted_as_ci_lints() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    linted = {line.strip().removesuffix(" .") for line in recipe[1].splitlines()}
    (local,) = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    hooked = {hook["entry"].replace(".venv/bin", "$(BIN)") for hook in local["hooks"]}
    assert hooked == linted


def native_requirement() -> Requirement:
    extra = re.search(r'^native = \[\n  "(.*)",\n\]$', pyproject(), re.MULTILINE)
    assert extra is not None
    return Requirement(extra[1])


def pyproject() -> str:
    return (ROOT / "pyproject.toml").read_text()
