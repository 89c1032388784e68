"""A real `ladle serve` tells of itself: logs, access log, request log, traces, metrics."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from e2e.serving import ServerProcess

from ladle.client import Client
from ladle.export.models.cli import main as models
from ladle.protos import tensors
from ladle.protos.files.records import read_records
from ladle.protos.serving_pb import PredictionLog

pytestmark = pytest.mark.e2e


def test_a_server_tells_of_a_request_in_every_way_it_can(
    written_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    config = tmp_path / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "h" base_path: "{written_models}/half_plus_two" '
        'model_platform: "tensorflow" logging_config { '
        f'log_collector_config {{ filename_prefix: "{tmp_path}/requests/h" }} '
        "sampling_config { sampling_rate: 1 } } } }"
    )
    access = tmp_path / "access.log"
    with ServerProcess(
        "h",
        written_models / "half_plus_two",
        f"--model_config_file={config}",
        f"--access_log={access}",
        "--log_format=json",
        "--rest_api_port=auto",
    ) as server:
        with Client(server.address) as client:
            client.wait_until_ready()
            client.predict("h", {"x": np.ones((2, 1), np.float32)})
        given = {"name": "x", "shape": [3, 1], "datatype": "FP32", "data": [1, 2, 3]}
        body = json.dumps({"inputs": [given], "outputs": [{"name": "y"}]}).encode()
        with urllib.request.urlopen(f"{server.url}/v2/models/h/infer", body) as response:
            assert json.load(response)["outputs"][0]["data"] == [2.5, 3.0, 3.5]
        url = f"{server.url}/monitoring/prometheus/metrics"
        with urllib.request.urlopen(url) as response:
            metrics = response.read().decode()
        code, log = server.stop()

    assert code == 0
    assert ':tensorflow:serving:request_count{model_name="h",status="OK"} 2\n' in metrics
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    # What prints spans writes lines of its own, and each is an event of the log.
    assert '"name": "Predict"' in "".join(event["message"] for event in events)
    (available,) = [e for e in events if e["message"].startswith("available")]
    assert (available["model"], available["version"], available["level"]) == ("h", 1, "info")
    accessed = [json.loads(line) for line in access.read_text().splitlines()]
    (predicted,) = [e for e in accessed if e["method"] == "Predict"]
    assert (predicted["model"], predicted["rows"], predicted["code"]) == ("h", 2, "OK")
    (logged,) = (tmp_path / "requests").iterdir()
    version = tmp_path / "published" / "1"
    version.mkdir(parents=True)
    for part in (written_models / "half_plus_two" / "1").iterdir():
        (version / part.name).symlink_to(part)
    assert models(["warmup", str(version.parent), "--from", str(logged)]) == 0
    warmup = version / "assets.extra/tf_serving_warmup_requests"
    rows = [
        len(tensors.to_array(PredictionLog.FromString(data).predict_log.request.inputs["x"]))
        for data in read_records(warmup)
    ]
    assert rows == [2, 3]  # of both protocols
