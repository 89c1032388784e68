"""What `make release-check` finds, of states that are made up."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from release_check import ROOT, Release, look, problems, sections

CHANGELOG = """# Changelog

## Unreleased

## 0.2.0 - 2026-12-01

- New.

## 0.1.0 - 2026-11-01

- First.
"""
READY = Release(
    uncommitted=(),
    versions={"pyproject.toml": "0.2.0", "native/Cargo.toml": "0.2.0"},
    changelog=CHANGELOG,
    head="b" * 40,
    tags={"v0.1.0": "a" * 40},
)


def test_a_commit_that_can_be_tagged_has_no_problems() -> None:
    assert problems(READY) == []


def test_a_commit_that_is_tagged_has_no_problems() -> None:
    assert problems(replace(READY, tags={**READY.tags, "v0.2.0": READY.head})) == []


@pytest.mark.parametrize(
    ("release", "told"),
    [
        (replace(READY, uncommitted=(" M README.md",)), "tree: not committed: M README.md"),
        (
            replace(READY, versions={"pyproject.toml": "0.2.0", "native/Cargo.toml": "0.1.0"}),
            "version: expected 0.2.0 in native/Cargo.toml, got 0.1.0",
        ),
        (
            replace(
                READY, changelog=CHANGELOG.replace("## Unreleased\n", "## Unreleased\n\n- x\n")
            ),
            "changelog: lines under Unreleased belong to no version yet",
        ),
        (
            replace(READY, changelog=CHANGELOG.replace("## Unreleased\n", "")),
            'changelog: expected "Unreleased" first, got "0.2.0 - 2026-12-01"',
        ),
        (
            replace(READY, changelog=CHANGELOG.replace("2026-12-01", "2026-13-01")),
            'changelog: expected "VERSION - YYYY-MM-DD", got "0.2.0 - 2026-13-01"',
        ),
        (
            replace(READY, changelog=CHANGELOG.replace("0.2.0", "0.0.9")),
            "changelog: expected 0.2.0 as the newest version, got 0.0.9",
        ),
        (
            replace(READY, changelog=CHANGELOG.replace("0.2.0", "0.0.9")),
            "changelog: expected the newest version first",
        ),
        (
            replace(READY, tags={**READY.tags, "v0.2.0": "c" * 40}),
            "tags: v0.2.0 is another commit: raise the version",
        ),
        (
            replace(READY, tags={**READY.tags, "v0.3.0": READY.head}),
            "tags: expected v0.2.0 on this commit, got v0.3.0",
        ),
        (replace(READY, tags={}), "tags: no v0.1.0"),
        (
            replace(READY, tags={**READY.tags, "v0.0.1": "d" * 40}),
            "changelog: nothing about v0.0.1, which is a tag",
        ),
    ],
)
def test_what_does_not_agree_is_one_line(release: Release, told: str) -> None:
    assert told in problems(release)


@pytest.mark.parametrize("version", ["", "1.0", "0.2.0.dev1"])
def test_a_version_is_three_numbers(version: str) -> None:
    found = problems(replace(READY, versions={"pyproject.toml": version}))
    assert f'version: expected three numbers in pyproject.toml, got "{version}"' in found


@pytest.mark.parametrize("changelog", ["", "# Changelog\n", "## 0.2.0 - 2026-12-01\n"])
def test_a_changelog_without_its_parts_is_told(changelog: str) -> None:
    found = problems(replace(READY, changelog=changelog))
    assert any(problem.startswith('changelog: expected "Unreleased" first') for problem in found)


def test_a_section_ends_where_the_next_begins() -> None:
    assert sections("intro\n## A\n\n- a\n### part\n## B\n") == [
        ("A", "\n\n- a\n### part\n"),
        ("B", "\n"),
    ]


@pytest.mark.parametrize("annotated", [[], ["-m", "release"]])
def test_a_checkout_is_read_as_git_has_it(tmp_path: Path, annotated: list[str]) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\n## 0.1.0 - 2026-11-01\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "tag.gpgSign=false"]
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["commit", "--quiet", "--no-gpg-sign", "-m", "first"],
        ["tag", "v0.1.0", *annotated],
    ):
        subprocess.run(["git", *who, *command], cwd=tmp_path, check=True)
    assert problems(look(tmp_path)) == []
    (tmp_path / "new").touch()
    assert problems(look(tmp_path)) == ["tree: not committed: ?? new"]


def test_the_promise_names_the_pythons_and_the_tensorflow_that_the_package_takes() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    pythons = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', pyproject)
    tensorflow = re.search(r'"tensorflow>=([\d.]+),<3"', pyproject)
    assert tensorflow is not None
    promise = (ROOT / "docs" / "stability.md").read_text()
    assert f"| Python | {pythons[0]} to {pythons[-1]} |" in promise
    assert f"| TensorFlow | {tensorflow[1]} and later 2.x |" in promise
