"""Prints the protos of tensorflow-serving-api, and of the TensorFlow below it, as a line of JSON.

Usage, by the conformance environment's Python, in the folder tests:
python -m conformance.upstream_descriptors

What it prints: {"tensorflow": its version, "descriptors": a
FileDescriptorSet in base64, each file after those it imports}.
"""

from __future__ import annotations

import base64
import importlib
import json
import pkgutil
from importlib.metadata import version

import conformance.without_tensorflow  # noqa: F401 - before the stubs

# isort: split
import tensorflow_serving
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet


def main() -> None:
    """Import every module of the package, and follow what they import."""
    collected: dict[str, FileDescriptor] = {}
    prefix = f"{tensorflow_serving.__name__}."
    for module in pkgutil.walk_packages(tensorflow_serving.__path__, prefix):
        if module.name.endswith("_pb2"):
            _collect(importlib.import_module(module.name).DESCRIPTOR, collected)
    descriptors = FileDescriptorSet()
    for file in collected.values():
        file.CopyToProto(descriptors.file.add())
    print(
        json.dumps(
            {
                "tensorflow": version("tensorflow"),
                "descriptors": base64.b64encode(descriptors.SerializeToString()).decode(),
            }
        )
    )


def _collect(file: FileDescriptor, collected: dict[str, FileDescriptor]) -> None:
    if file.name not in collected:
        for dependency in file.dependencies:
            _collect(dependency, collected)
        collected[file.name] = file


if __name__ == "__main__":
    main()
