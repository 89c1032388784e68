from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from ladle.protos import _pool

PROTOS = Path(__file__).resolve().parents[2] / "protos"


@pytest.fixture(scope="module")
def build_hook() -> ModuleType:
    """Loaded as hatch does it: by path, and without protos/ on sys.path."""
    spec = importlib.util.spec_from_file_location("build_hook", PROTOS / "build_hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(protos: Path, text: str) -> None:
    folder = protos / "ladle/v1"
    folder.mkdir(parents=True)
    (folder / "broken.proto").write_text(f'syntax = "proto3"; package ladle.v1; {text}')


def test_what_is_imported_is_what_the_protos_say(build_hook: ModuleType, tmp_path: Path) -> None:
    """Fails when a .proto file was edited without `make protos`."""
    build_hook.compile_protos(PROTOS, tmp_path)
    for built in tmp_path.iterdir():
        assert built.read_bytes() == (Path(_pool.DESCRIPTORS).parent / built.name).read_bytes()


def test_descriptors_are_complete_and_carry_no_comments(build_hook: ModuleType) -> None:
    files = FileDescriptorSet.FromString(zlib.decompress(Path(_pool.DESCRIPTORS).read_bytes())).file
    assert {"google/protobuf/any.proto", "google/protobuf/wrappers.proto"} <= {
        f.name for f in files
    }
    assert not any(file.HasField("source_code_info") for file in files)


def test_a_mistake_is_told_in_one_line(build_hook: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, "message Broken { Missing field = 1; }")
    with pytest.raises(SystemExit, match=r"^cannot compile protos/: .*broken\.proto.*Missing.*$"):
        build_hook.compile_protos(tmp_path, tmp_path)
    assert not (tmp_path / "descriptors.binpb.zlib").exists()


def test_a_field_that_python_cannot_name_is_refused(build_hook: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, "message Broken { int32 import = 1; }")
    with pytest.raises(SystemExit, match="field import"):
        build_hook.compile_protos(tmp_path, tmp_path)
