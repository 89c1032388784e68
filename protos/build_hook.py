"""Compiles protos/ for `ladle.protos`: one descriptor set, and type stubs made from it.

Hatch runs it for every build, editable ones too; `make protos` runs it as a script. It needs
only what [build-system] in pyproject.toml names.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = Path(__file__).resolve().parent
PACKAGE = PROTOS / "python/ladle/protos"
DESCRIPTORS = "descriptors.binpb.zlib"


class ProtosBuildHook(BuildHookInterface[Any]):
    """Has the generated files in place before hatch collects what goes into the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate them, whatever the target."""
        compile_protos()

    def clean(self, versions: list[str]) -> None:
        """Remove them, for `hatch clean`."""
        for path in (PACKAGE / DESCRIPTORS, *PACKAGE.glob("*_pb.pyi")):
            path.unlink(missing_ok=True)


def compile_protos(protos: Path = PROTOS, package: Path = PACKAGE) -> None:
    """Write the descriptors of all files in `protos`, and the stubs, into the folder `package`.

    The descriptors are compressed, to a third: every installation carries them.

    Raises:
        SystemExit: a file is wrong; the message is protoc's first complaint.
    """
    sources = sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, "descriptors.binpb")
        protoc = subprocess.run(
            [
                *(sys.executable, "-m", "grpc_tools.protoc"),
                f"--proto_path={protos}",
                "--include_imports",
                f"--descriptor_set_out={written}",
                *sources,
            ],
            capture_output=True,
            text=True,
        )
        if protoc.returncode != 0:
            complaint = protoc.stderr.strip().splitlines() or [f"exit status {protoc.returncode}"]
            raise SystemExit(f"cannot compile protos/: {complaint[0]}")
        descriptors = written.read_bytes()
    (package / DESCRIPTORS).write_bytes(zlib.compress(descriptors, 9))
    for name, text in _load_neighbour("stubs").stubs(descriptors).items():
        (package / name).write_text(text, encoding="utf-8")


def _load_neighbour(name: str) -> ModuleType:
    """Import a module of this folder by its path, as hatch does with this one.

    The folder cannot be on sys.path: its `tensorflow` and `grpc` would be import packages there.
    """
    spec = importlib.util.spec_from_file_location(name, PROTOS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    compile_protos()
