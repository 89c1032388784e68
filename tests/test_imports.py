"""Holds the arrows of ARCHITECTURE.md: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PORTIONS = ("protos/python", "client", "server", "export")

# For each package, by its longest matching prefix: the only ladle packages it may import from,
# beside itself, and what else it must not import even lazily.
ALLOWED = {
    "ladle.protos": set[str](),
    "ladle.store": set[str](),
    "ladle.cli": set[str](),  # names its commands as text, and imports the one that is asked for
    "ladle.client": {"ladle.protos"},
    "ladle.client.health_cli": {"ladle.client", "ladle.cli.arguments"},
    "ladle.bench": {"ladle.client", "ladle.cli.arguments"},
    "ladle.batch": {"ladle.protos", "ladle.store", "ladle.client", "ladle.cli.arguments"},
    "ladle.rollout": {"ladle.cli.arguments"},
    "ladle.rollout.guard": set(),  # a decision, which servers and the command share
    "ladle.batch.tables": {"ladle.batch", "ladle.client", "ladle.embedded", "ladle.server"},
    "ladle.batch.ray": {"ladle.batch", "ladle.client"},
    "ladle.export": {"ladle.protos", "ladle.store"},
    "ladle.export.models.remote": {"ladle.protos", "ladle.store", "ladle.client", "ladle.export"},
    "ladle.server.core": {"ladle.protos", "ladle.store", "ladle.rollout.guard"},
    "ladle.server.call": {"ladle.server.core.errors", "ladle.server.core.observation"},
    "ladle.server.limits": {"ladle.server.core.errors"},
    "ladle.server.config": {
        "ladle.server.core.machine.cpus",
        "ladle.server.core.models.names",
        "ladle.store.url",
    },
    "ladle.server.flags": {
        "ladle.store.url",
        "ladle.server.config",
        "ladle.server.wiring.choice",
        "ladle.cli.arguments",
    },
    "ladle.server.triton_cli": {"ladle.server", "ladle.cli.arguments"},
    "ladle.server.settings": {
        "ladle.protos",
        "ladle.store",
        "ladle.rollout.guard",
        "ladle.server.core",
    },
    "ladle.server.saved_model": {"ladle.protos", "ladle.server.core"},
    "ladle.server.rpc": {"ladle.protos", "ladle.server.core", "ladle.server.call"},
    "ladle.server.rest": {
        "ladle.protos",
        "ladle.server.core",
        "ladle.server.call",
        "ladle.server.limits",
        "ladle.server.rpc",
        "ladle.server.transport.http.exchange",
    },
    "ladle.server.warmup": {"ladle.protos", "ladle.server.core", "ladle.server.rpc"},
    "ladle.server.monitoring": {
        "ladle.protos",
        "ladle.rollout.guard",
        "ladle.server.core",
        "ladle.server.warmup.records",  # TFRecord files
    },
    "ladle.server.transport": {
        "ladle.protos",
        "ladle.server.core.errors",
        "ladle.server.core.machine.scheduling",
        "ladle.server.core.observation",
        "ladle.server.core.regular_file",
        "ladle.server.call",
        "ladle.server.limits",
    },
    "ladle.server": {"ladle.protos", "ladle.store", "ladle.rollout.guard", "ladle.server"},
    "ladle.server.wiring.workers.deciding.statuses": {"ladle.rollout.fleet"},
    "ladle.embedded": {"ladle.client", "ladle.server"},
    "ladle.ray": {"ladle.embedded", "ladle.server"},
    "ladle.ray.services": set[str](),
}
FORBIDDEN = {
    "ladle.protos": {"tensorflow", "keras", "grpc"},
    "ladle.store": {"tensorflow", "keras", "grpc", "google", "numpy"},
    "ladle.cli": {"tensorflow", "keras", "grpc", "numpy", "google"},
    "ladle.client": {"tensorflow", "keras"},
    "ladle.batch": {"tensorflow", "keras"},
    "ladle.bench": {"tensorflow", "keras"},
    "ladle.rollout": {"tensorflow", "keras", "grpc", "numpy", "google"},
    "ladle.server.core": {"tensorflow", "keras", "grpc"},
    "ladle.server.call": {"tensorflow", "keras", "grpc"},
    "ladle.server.limits": {"tensorflow", "keras", "grpc"},
    "ladle.server.settings": {"tensorflow", "keras", "grpc"},
    "ladle.server.rpc": {"tensorflow", "keras", "grpc"},
    "ladle.server.rest": {"tensorflow", "keras", "grpc", "httptools"},
    "ladle.server.warmup": {"tensorflow", "keras", "grpc"},
    "ladle.server.monitoring": {"tensorflow", "keras", "grpc"},
    "ladle.server.transport": {"tensorflow", "keras"},
    "ladle.server.saved_model": {"grpc"},
    "ladle.embedded": {"tensorflow", "keras"},
    "ladle.ray": {"tensorflow", "keras"},
    "ladle.ray.services": {"tensorflow", "keras", "numpy", "google"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for portion in PORTIONS:
        for path in sorted((ROOT / portion).rglob("ladle/**/*.py")):
            name = ".".join(path.relative_to(ROOT / portion).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imported_by(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: imports are absolute"
            yield node.module
            if within(node.module, "ladle"):  # what is imported may be a module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def rule_for(module: str, rules: dict[str, set[str]]) -> str | None:
    return max((p for p in rules if within(module, p)), key=len, default=None)


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=[n for n, _ in modules()])
def test_imports_point_one_way(module: str, path: Path) -> None:
    package = rule_for(module, ALLOWED)
    assert package is not None, f"{module} is in no package that ARCHITECTURE.md knows"
    forbidden = FORBIDDEN.get(package, set())
    for imported in imported_by(path):
        assert imported.split(".")[0] not in forbidden, f"{module} imports {imported}"
        if within(imported, "ladle") and imported != "ladle" and not within(imported, package):
            assert any(within(imported, allowed) for allowed in ALLOWED[package]), (
                f"{module} imports {imported}; {package} may import from {ALLOWED[package]}"
            )


def test_every_package_of_the_tree_is_seen() -> None:
    names = [name for name, _ in modules()]
    for package in ALLOWED:
        assert any(within(name, package) for name in names), package


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and those for type checkers count too: a reader follows them all."""
    paths = dict(modules())
    graph = {
        name: {i for i in imported_by(path) if i in paths and i != name}
        for name, path in paths.items()
    }
    for cycle in strongly_connected(graph):
        assert len(cycle) == 1, f"these import each other: {', '.join(sorted(cycle))}"


def strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the graph's strongly connected components, by Tarjan's algorithm."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            start = stack.index(node)
            components.append(set(stack[start:]))
            del stack[start:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return components


def test_a_circle_of_imports_would_be_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}
    assert {"b", "c"} in strongly_connected(graph)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import ladle.client", {"tensorflow", "keras", "ladle.server"}),
        ("import ladle.server.core.lifecycle.manager", {"tensorflow", "grpc"}),
        (
            "import ladle.server.wiring.workers.supervising.supervisor",
            {"tensorflow", "grpc", "numpy", "google"},
        ),
        ("import ladle.server; ladle.server.Config", {"tensorflow", "grpc", "numpy"}),
        ("import ladle.server.server", {"tensorflow", "httptools", "orjson"}),
        ("import ladle.export", {"tensorflow", "keras"}),
        # As each of Ray's proxies does.
        ("from ladle.ray import add_services", {"tensorflow", "numpy", "google", "ladle.server"}),
        # Who exports needs no packages of the extra `server`.
        (
            "import ladle.server.wiring.checking.program",
            {"tensorflow", "prometheus_client", "orjson", "httptools"},
        ),
    ],
)
def test_importing_loads_no_more_than_it_must(statement: str, absent: set[str]) -> None:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert absent.isdisjoint(loaded)


def test_no_folder_of_source_has_more_entries_than_one_can_survey() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs the git checkout")
    entries: dict[str, set[str]] = {}
    for name in listed.stdout.splitlines():
        path = Path(name)
        for entry in (path, *path.parents[:-1]):
            entries.setdefault(str(entry.parent), set()).add(entry.name)
    for folder, names in entries.items():
        if folder.startswith(("client/", "export/", "protos/python/", "server/", "tests/")):
            assert len(names - {"__init__.py", "py.typed"}) <= 16, folder


def test_no_folder_of_the_repository_shadows_a_package() -> None:
    """protos/ holds a folder `tensorflow`: as an import root it would hide the real one."""
    assert not (ROOT / "protos" / "__init__.py").exists()
    for portion in PORTIONS:
        folders = (path for path in (ROOT / portion).iterdir() if path.name != "__pycache__")
        assert sorted(path.name for path in folders if any(path.rglob("*.py"))) == ["ladle"]
        assert not (ROOT / portion / "ladle" / "__init__.py").exists()
