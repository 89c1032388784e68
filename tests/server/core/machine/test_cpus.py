"""How many processors a process may use: its affinity mask and its cgroups' quotas."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle.server.core.machine.cpus import cpus, limited, quotas


@pytest.mark.parametrize(
    ("allowed", "given", "expected"),
    [
        (8, [], 8),
        (8, [2.0], 2),
        (8, [1.5], 2),
        (8, [0.25], 1),
        (2, [16.0], 2),
        (8, [4.0, 1.0], 1),
    ],
)
def test_the_smallest_limit_counts_rounded_up(
    allowed: int, given: list[float], expected: int
) -> None:
    assert limited(allowed, iter(given)) == expected


def cgroup(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_quotas_of_version_2_are_those_of_the_cgroup_and_all_above_it(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/pods/one\n")
    cgroup(tmp_path, "pods", cpu__max="300000 100000\n")
    cgroup(tmp_path, "pods/one", cpu__max="max 100000\n")
    assert list(quotas(tmp_path, own)) == [3.0]


def test_in_a_container_only_the_root_is_there(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/kubepods/elsewhere\n")
    cgroup(tmp_path, "", cpu__max="150000 100000\n")
    assert list(quotas(tmp_path, own)) == [1.5]


def test_quotas_of_version_1(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("5:memory:/a\n4:cpu,cpuacct:/a\n")
    cgroup(tmp_path, "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    cgroup(tmp_path, "cpu/a", cpu__cfs_quota_us="200000\n", cpu__cfs_period_us="100000\n")
    assert list(quotas(tmp_path, own)) == [2.0]


@pytest.mark.parametrize("text", ["", "nonsense", "0:", "0::/../../etc"])
def test_without_readable_quotas_there_are_none(tmp_path: Path, text: str) -> None:
    own = tmp_path / "own"
    own.write_text(text)
    assert list(quotas(tmp_path / "absent", own)) == []


def test_this_process_may_use_at_least_one() -> None:
    assert cpus() >= 1
