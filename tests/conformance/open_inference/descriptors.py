"""Prints the Open Inference Protocol's protos as a package has them, in base64, as a line of JSON.

Usage: python -m conformance.open_inference.descriptors tritonclient|kserve|mlserver
"""

from __future__ import annotations

import base64
import importlib
import json
import sys

from conformance.open_inference.bare import bare
from google.protobuf.descriptor_pb2 import FileDescriptorSet

_MODULES = {
    "tritonclient": ("tritonclient.grpc.service_pb2", "tritonclient.grpc.model_config_pb2"),
    "kserve": ("kserve.protocol.grpc.grpc_predict_v2_pb2",),
    "mlserver": ("mlserver.grpc.dataplane_pb2", "mlserver.grpc.model_repository_pb2"),
}


def main() -> None:
    """Print the descriptors of the package that is the argument."""
    package = sys.argv[1]
    if package == "kserve":
        bare("kserve", "kserve.protocol")
    elif package == "mlserver":
        bare("mlserver", "mlserver.grpc")
    descriptors = FileDescriptorSet()
    for name in _MODULES[package]:
        importlib.import_module(name).DESCRIPTOR.CopyToProto(descriptors.file.add())
    print(json.dumps(base64.b64encode(descriptors.SerializeToString()).decode()))


if __name__ == "__main__":
    main()
