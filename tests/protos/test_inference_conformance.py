"""The Open Inference Protocol's messages against those of its clients' packages."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from server.open_inference.harness import mlserver_installs, row

from ladle.protos import _pool

TESTS = Path(__file__).resolve().parents[1]

# Where the vendors' numbers disagree: what this server does is another vendor's.
DISAGREEMENTS = {
    "tritonclient": {
        # KServe's answers have fields, Triton's have none.
        "RepositoryModelLoadResponse.1",
        "RepositoryModelLoadResponse.2",
        "RepositoryModelUnloadResponse.1",
        "RepositoryModelUnloadResponse.2",
    },
    "kserve": {
        # KServe has the model's name where Triton has the repository's.
        "RepositoryModelLoadRequest.1",
        "RepositoryModelUnloadRequest.1",
        "RepositoryModelLoadRequest.2",
        "RepositoryModelUnloadRequest.2",
        "RepositoryModelLoadRequest.3",
        "RepositoryModelUnloadRequest.3",
    },
    "mlserver": {
        "ModelMetadataResponse.6",
        "RepositoryModelLoadResponse.1",
        "RepositoryModelLoadResponse.2",
        "RepositoryModelUnloadResponse.1",
        "RepositoryModelUnloadResponse.2",
    },
}

Fields = Mapping[str, tuple[str, int, int, str]]
"""`Message.NUMBER` to name, type, label, and the name of the type without packages."""


def fields(files: Iterable[FileDescriptorProto]) -> Fields:
    return {
        f"{scope}.{field.number}": (
            field.name,
            field.type,
            field.label,
            field.type_name.rpartition(".")[2],
        )
        for file in files
        for message in file.message_type
        for scope, field in _within(message, message.name)
    }


def _within(message: DescriptorProto, scope: str) -> Iterator[tuple[str, FieldDescriptorProto]]:
    for field in message.field:
        yield scope, field
    for nested in message.nested_type:
        yield from _within(nested, f"{scope}.{nested.name}")


def ours() -> Fields:
    files = []
    for file in _pool.FILES:
        if file.package.startswith("inference"):
            proto = FileDescriptorProto()
            file.CopyToProto(proto)
            files.append(proto)
    return fields(files)


@pytest.mark.conformance
@pytest.mark.parametrize(
    "package", ["tritonclient", "kserve", pytest.param("mlserver", marks=mlserver_installs)]
)
@row(86)
def test_every_field_that_both_have_is_the_same(conformance_python: str, package: str) -> None:
    told = subprocess.run(
        [conformance_python, "-m", "conformance.open_inference.descriptors", package],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = fields(FileDescriptorSet.FromString(base64.b64decode(json.loads(told))).file)
    known = ours()
    common = known.keys() & theirs.keys()
    assert len(common) > 50
    differing = {key: (known[key], theirs[key]) for key in common if known[key] != theirs[key]}
    allowed = DISAGREEMENTS[package]
    assert {key: both for key, both in differing.items() if key not in allowed} == {}
    messages = {key.rpartition(".")[0] for key in theirs}
    invented = {key for key in known.keys() - theirs.keys() if key.rpartition(".")[0] in messages}
    newer = {"InferParameter.4", "InferParameter.5"}  # which KServe and MLServer lack
    assert invented - allowed - newer == set()
