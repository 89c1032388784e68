"""The Open Inference Protocol, asked for by tritonclient itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.serving import ServerProcess
from e2e.upstream.official import told_by

pytestmark = pytest.mark.conformance


def test_tritonclient_gets_its_answers_from_a_ladle_server(
    conformance_python: str, written_models: Path
) -> None:
    base_path = written_models / "half_plus_two_tf2"
    flags = ("--wait_for_models", "--grpc_compressed_requests")
    with ServerProcess("half_plus_two", base_path, *flags) as server:
        told = told_by(conformance_python, "open_inference.triton_client", server.address)

    assert (told["live"], told["ready"], told["model_ready"]) == (True, True, True)
    assert told["metadata"] == "ladle"
    assert told["model"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "1"]}]
    assert told["model"]["versions"] == ["1"]
    assert told["answer"] == told["compressed"] == [[2.5], [3.0], [4.5]]
    assert told["id"] == "7"
    assert told["classes"] == [["2.500000:0"], ["3.000000:0"], ["4.500000:0"]]
    assert told["wrong"] == [
        "StatusCode.NOT_FOUND",
        "Request for unknown model: 'wrong' is not found",
    ]
