"""Only the monotonic clock decides: the wall clock may be set at any moment."""

from __future__ import annotations

import ast
from pathlib import Path

SERVER = Path(__file__).parents[3] / "server" / "ladle" / "server"
CRATE = SERVER.parents[1] / "native" / "src"

# Who reads the wall clock, and what for.
ALLOWED = {
    "core/sources/base_path.py": "compares it with the times of files",
    "core/sources/file_system.py": "passes it on for that",
    "monitoring/access_log.py": "writes it",
    "monitoring/console.py": "writes it",
    "monitoring/log_files.py": "writes it, into names that keep their order if it is set back",
    "monitoring/request_log.py": "writes it",
    "monitoring/tracing.py": "writes it",
    "rpc/open_inference/statistics.py": "writes it",
    "transport/http/answers.py": "writes it, into the header of each answer",
    "core/rollout/shadow_log.py": "writes it",
    "wiring/rollouts.py": "compares it with the times of labels",
    "wiring/remote.py": "passes it on, to be compared with the times of objects in a store",
}


def reads_the_wall_clock(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(value=ast.Name(id="time"), attr="time" | "time_ns"):
                return True
            case ast.Attribute(attr="now" | "utcnow" | "today", value=ast.Name(id=name)):
                if name in ("datetime", "date"):
                    return True
            case ast.ImportFrom(module="time", names=names):
                if any(name.name in ("time", "time_ns") for name in names):
                    return True
            case _:
                pass
    return False


def test_few_read_the_wall_clock_and_nothing_waits_by_it() -> None:
    found = {
        str(path.relative_to(SERVER)) for path in SERVER.rglob("*.py") if reads_the_wall_clock(path)
    }
    assert found == set(ALLOWED)


def test_the_native_transport_knows_no_wall_clock() -> None:
    sources = {path: path.read_text() for path in CRATE.rglob("*.rs")}

    assert any("Instant::now" in source for source in sources.values())
    assert [path.name for path, source in sources.items() if "SystemTime" in source] == []
