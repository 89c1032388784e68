"""Says whether working tree, version, changelog and tags agree: `make release-check`.

Prints what a release would trip over, one problem a line, and exits with 1; exits with 0 if the
commit is a release, or can be tagged as one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_RELEASED = re.compile(r"(\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})")


@dataclass(frozen=True, kw_only=True)
class Release:
    """What the check looks at."""

    uncommitted: tuple[str, ...]
    """Lines of `git status --porcelain`."""
    versions: Mapping[str, str]
    """The version that each file states, by the file's name."""
    changelog: str
    head: str
    """The commit that is checked out."""
    tags: Mapping[str, str]
    """The commit of each tag of a version."""


def problems(release: Release) -> list[str]:
    """Return what does not agree, in one line each; none if the commit can be released."""
    found = [f"tree: not committed: {line.strip()}" for line in release.uncommitted]
    version = next(iter(release.versions.values()))
    for name, stated in release.versions.items():
        if not _VERSION.fullmatch(stated):
            found.append(f'version: expected three numbers in {name}, got "{stated}"')
        elif stated != version:
            found.append(f"version: expected {version} in {name}, got {stated}")
    return found + _changelog_problems(release, version) + _tag_problems(release, version)


def _changelog_problems(release: Release, version: str) -> list[str]:
    found: list[str] = []
    first, *others = sections(release.changelog) or [("", "")]
    if first[0] != "Unreleased":
        found.append(f'changelog: expected "Unreleased" first, got "{first[0]}"')
    elif first[1].strip():
        found.append("changelog: lines under Unreleased belong to no version yet")
    dated = [_RELEASED.fullmatch(title) for title, _ in others]
    found += [
        f'changelog: expected "VERSION - YYYY-MM-DD", got "{title}"'
        for (title, _), match in zip(others, dated, strict=True)
        if match is None or not _is_date(match[2])
    ]
    numbers = [match[1] for match in dated if match is not None]
    if version not in numbers[:1]:
        newest = numbers[0] if numbers else "none"
        found.append(f"changelog: expected {version} as the newest version, got {newest}")
    if numbers != sorted(numbers, key=_numbers, reverse=True):
        found.append("changelog: expected the newest version first")
    return found


def _tag_problems(release: Release, version: str) -> list[str]:
    found: list[str] = []
    tagged = release.tags.get(f"v{version}")
    if tagged is not None and tagged != release.head:
        found.append(f"tags: v{version} is another commit: raise the version")
    here = [tag for tag, commit in release.tags.items() if commit == release.head]
    found += [
        f"tags: expected v{version} on this commit, got {tag}"
        for tag in here
        if tag != f"v{version}"
    ]
    listed = {
        f"v{match[1]}"
        for title, _ in sections(release.changelog)
        if (match := _RELEASED.fullmatch(title))
    }
    found += [f"tags: no {tag}" for tag in sorted(listed - {f"v{version}"} - set(release.tags))]
    unlisted = sorted(set(release.tags) - listed - set(here))
    return found + [f"changelog: nothing about {tag}, which is a tag" for tag in unlisted]


def sections(changelog: str) -> list[tuple[str, str]]:
    """Return the title and the text of each second-level section, in their order."""
    _, *parts = _HEADING.split(changelog)
    return list(zip(parts[::2], parts[1::2], strict=True))


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def look(root: Path) -> Release:
    """Return what there is in the checkout at `root`.

    Raises:
        subprocess.CalledProcessError: It is none.
    """
    # What fuzzes is never published.
    crates = _git(root, "ls-files", "*/Cargo.toml", ":!*/fuzz/Cargo.toml")
    manifests = ["pyproject.toml", *crates]
    tags = [line.split() for line in _git(root, "tag", "--list", "v*", f"--format={_TAG}")]
    return Release(
        uncommitted=tuple(_git(root, "status", "--porcelain")),
        versions={name: _stated_version((root / name).read_text()) for name in manifests},
        changelog=(root / "CHANGELOG.md").read_text(),
        head=_git(root, "rev-parse", "HEAD")[0],
        tags={name: commits[0] for name, *commits in tags},
    )


# An annotated tag is an object of its own; what it points to comes first then.
_TAG = "%(refname:strip=2) %(*objectname) %(objectname)"


def _stated_version(manifest: str) -> str:
    match = re.search(r'^version = "([^"]*)"$', manifest, re.MULTILINE)
    return match[1] if match else ""


def _git(root: Path, *arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def main() -> int:
    """Check this checkout and return the exit status."""
    release = look(ROOT)
    found = problems(release)
    for problem in found:
        print(problem, file=sys.stderr)
    if found:
        return 1
    tag = f"v{release.versions['pyproject.toml']}"
    state = "this commit is" if tag in release.tags else "this commit can be tagged"
    print(f"tree, version, changelog and tags agree: {state} {tag}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
