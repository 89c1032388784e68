"""Our protos against those in the package tensorflow-serving-api, which stay in other processes."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    FileDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.descriptor_pool import DescriptorPool

from ladle.protos import _pool

TESTS = Path(__file__).resolve().parents[1]

# The release that protos/tensorflow is written against. Another one may have more or fewer
# fields, but what both have must still be equal.
TENSORFLOW_RELEASE = "2.21"

# Known only from the server's source: the package with the client's protos leaves them out.
NOT_IN_THE_PACKAGE = {
    "tensorflow/profiler_service.proto",  # TensorFlow has it in C++ alone
    "tensorflow_serving/config/monitoring_config.proto",
    "tensorflow_serving/config/ssl_config.proto",
    "tensorflow_serving/servables/tensorflow/session_bundle_config.proto",
}

Facts = Mapping[str, object]
"""Full name of anything that a .proto file declares, to all that a peer could notice of it."""


@pytest.mark.conformance
def test_every_definition_of_tensorflow_serving_is_upstreams(upstream: Upstream) -> None:
    ours = facts(file for file in _pool.FILES if file.name not in NOT_IN_THE_PACKAGE)
    scope = ["tensorflow.serving"]
    assert differing(within(scope, ours), within(scope, upstream.facts)) == {}


@pytest.mark.conformance
def test_every_definition_of_tensorflow_that_we_have_is_upstreams(upstream: Upstream) -> None:
    files = [file for file in _pool.FILES if file.package in ("tensorflow", "tensorflow.error")]
    files = [file for file in files if file.name not in NOT_IN_THE_PACKAGE]
    scopes = [name for file in files for name in top_level_names(file)]
    differences = differing(within(scopes, facts(files)), within(scopes, upstream.facts))
    if not upstream.tensorflow.startswith(f"{TENSORFLOW_RELEASE}."):
        differences = {
            name: pair
            for name, pair in differences.items()
            if None not in pair and not name.endswith(" reserved")
        }
    assert differences == {}


@pytest.mark.conformance
@pytest.mark.parametrize("first", ["ladle", "upstream"])
def test_both_work_in_one_process_and_read_each_other(first: str, conformance_python: str) -> None:
    assert run(conformance_python, "one_process", first).endswith("messages agree")


SAMPLE = """
name: "sample.proto" package: "p" syntax: "proto3"
message_type {
  name: "Sample"
  oneof_decl { name: "choice" }
  field { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field { name: "size" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "area" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL oneof_index: 0 }
  field { name: "sizes" number: 4 type: TYPE_INT32 label: LABEL_REPEATED }
  field { name: "maybe" number: 5 type: TYPE_INT32 label: LABEL_OPTIONAL
          oneof_index: 1 proto3_optional: true } oneof_decl { name: "_maybe" }
  enum_type { name: "Kind" value { name: "NONE" number: 0 } value { name: "SOME" number: 1 } }
}
message_type { name: "Other" }
service {
  name: "Service" method { name: "Call" input_type: ".p.Sample" output_type: ".p.Sample" }
}
"""


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("number: 1 type", "number: 9 type"),
        ("TYPE_STRING", "TYPE_BYTES"),
        ("TYPE_STRING label: LABEL_OPTIONAL", "TYPE_STRING label: LABEL_REPEATED"),
        ('name: "name"', 'name: "title"'),
        ('name: "name"', 'name: "name" json_name: "NAME"'),
        ('"choice"', '"selection"'),
        ("number: 4", "number: 4 options { packed: false }"),
        ('oneof_index: 1 proto3_optional: true } oneof_decl { name: "_maybe" }', "}"),
        ('message_type { name: "Other"', 'message_type { name: "Other" reserved_name: "x"'),
        ('"SOME" number: 1', '"SOME" number: 2'),
        ('"SOME"', '"MORE"'),
        ('message_type { name: "Other" }', ""),
        ('name: "Call"', 'name: "Ask"'),
        ('output_type: ".p.Sample"', 'output_type: ".p.Other"'),
        ('input_type: ".p.Sample"', 'input_type: ".p.Sample" client_streaming: true'),
    ],
)
def test_the_comparison_notices_any_change(was: str, becomes: str) -> None:
    assert was in SAMPLE
    assert differing(sample_facts(SAMPLE), sample_facts(SAMPLE.replace(was, becomes))) != {}


def sample_facts(text: str) -> Facts:
    return facts(_files([text_format.Parse(text, FileDescriptorProto())]))


def facts(files: Iterable[FileDescriptor]) -> Facts:
    collected: dict[str, object] = {}
    for file in files:
        for message in file.message_types_by_name.values():
            collected.update(_message_facts(message))
        for enum in file.enum_types_by_name.values():
            collected.update(_enum_facts(enum))
        for service in file.services_by_name.values():
            collected.update(_service_facts(service))
    return collected


def _message_facts(message: Descriptor) -> Iterator[tuple[str, object]]:
    proto = DescriptorProto()
    message.CopyToProto(proto)
    reserved = {n for span in proto.reserved_range for n in range(span.start, span.end)}
    yield message.full_name, "message"
    yield f"{message.full_name} reserved", (reserved, set(proto.reserved_name))
    for member in message.fields:
        yield member.full_name, _field_facts(member)
    for nested in message.nested_types:  # the entries of maps are among them
        yield from _message_facts(nested)
    for enum in message.enum_types:
        yield from _enum_facts(enum)


def _field_facts(field: FieldDescriptor) -> dict[str, object]:
    referred = field.message_type or field.enum_type
    options = field.GetOptions()
    return {
        "number": field.number,
        "type": field.type,
        "referred": referred.full_name if referred else None,
        "repeated": field.is_repeated,
        "required": field.is_required,
        "packed": field.is_packed,
        "presence": field.has_presence,
        "json_name": field.json_name,
        "oneof": field.containing_oneof.name if field.containing_oneof else None,
        "deprecated": options.deprecated,
        "lazy": options.lazy,
    }


def _enum_facts(enum: EnumDescriptor) -> Iterator[tuple[str, object]]:
    proto = EnumDescriptorProto()
    enum.CopyToProto(proto)
    reserved = {n for span in proto.reserved_range for n in range(span.start, span.end + 1)}
    yield enum.full_name, "enum"
    yield f"{enum.full_name} reserved", (reserved, set(proto.reserved_name))
    for value in enum.values:
        yield f"{enum.full_name}.{value.name}", value.number


def _service_facts(service: ServiceDescriptor) -> Iterator[tuple[str, object]]:
    yield service.full_name, "service"
    for method in service.methods:
        yield (
            method.full_name,
            {
                "request": method.input_type.full_name,
                "response": method.output_type.full_name,
                "client_streaming": method.client_streaming,
                "server_streaming": method.server_streaming,
            },
        )


def differing(ours: Facts, theirs: Facts) -> dict[str, tuple[object, object]]:
    """Name to (ours, theirs) wherever they differ; None stands for what one side lacks."""
    return {
        name: (ours.get(name), theirs.get(name))
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    }


def within(scopes: list[str], every: Facts) -> Facts:
    """What these packages, messages and enums contain, and themselves."""
    inside = tuple(f"{scope}{end}" for scope in scopes for end in (".", " "))
    return {n: fact for n, fact in every.items() if n in scopes or n.startswith(inside)}


def top_level_names(file: FileDescriptor) -> Iterator[str]:
    for declared in (*file.message_types_by_name.values(), *file.enum_types_by_name.values()):
        yield declared.full_name


class Upstream:
    def __init__(self, dump: str) -> None:
        parsed = json.loads(dump)
        descriptors = FileDescriptorSet.FromString(base64.b64decode(parsed["descriptors"]))
        self.tensorflow: str = parsed["tensorflow"]
        self.facts = facts(_files(descriptors.file))


@pytest.fixture(scope="module")
def upstream(conformance_python: str) -> Upstream:
    return Upstream(run(conformance_python, "upstream_descriptors"))


def run(python: str, script: str, *args: str) -> str:
    """Return the last line that a script of the conformance folder prints."""
    command = [python, "-m", f"conformance.{script}", *args]
    result = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def _files(protos: Iterable[FileDescriptorProto]) -> list[FileDescriptor]:
    pool = DescriptorPool()
    for proto in protos:
        pool.AddSerializedFile(proto.SerializeToString())
    return [pool.FindFileByName(proto.name) for proto in protos]
