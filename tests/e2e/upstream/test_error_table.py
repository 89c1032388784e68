"""Every row of upstream's error behaviour, by upstream's own stubs, on TF1 and TF2 models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from e2e.serving import ServerProcess
from e2e.upstream.official import told_by

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictionLog
from ladle.server.warmup.records import frame
from ladle.server.warmup.replay import WARMUP_PATH

pytestmark = pytest.mark.conformance

MODELS = (
    "half_plus_two",
    "half_plus_two_tf2",
    "half_plus_two_tflite",
    "oddities",
    "misfits",
    "warm",
    "cold",
)


def warmup_logs() -> Iterator[PredictionLog]:
    predict, classify, multi = PredictionLog(), PredictionLog(), PredictionLog()
    x = np.array([[1], [2]], np.float32)
    predict.predict_log.request.inputs["x"].CopyFrom(tensors.to_proto(x))
    request = classify.classify_log.request
    request.model_spec.signature_name = "classify_x_to_y"
    example = request.input.example_list.examples.add()
    example.features.feature["x"].float_list.value.append(1)
    for kind in ("classify", "regress"):
        task = multi.multi_inference_log.request.tasks.add()
        task.method_name = f"tensorflow/serving/{kind}"
        task.model_spec.name = "of_old"
        task.model_spec.signature_name = f"{kind}_x_to_y"
    multi.multi_inference_log.request.input.CopyFrom(request.input)
    return iter((predict, classify, multi, PredictionLog()))


@pytest.fixture(scope="module")
def config_file(written_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ModelServerConfig of all models, of which one is warmed up and one fails to be."""
    folder = tmp_path_factory.mktemp("error_table")
    files = {
        "warm": b"".join(frame(log.SerializeToString()) for log in warmup_logs()),
        "cold": b"no records",
    }
    for name, content in files.items():
        shutil.copytree(written_models / "half_plus_two" / "1", folder / name / "1")
        file = folder / name / "1" / WARMUP_PATH
        file.parent.mkdir()
        file.write_bytes(content)
    configs = [
        f'config {{ name: "{name}" model_platform: "tensorflow" '
        f'base_path: "{(folder if name in files else written_models) / name}" '
        + ("" if name == "cold" else 'version_labels { key: "stable" value: 1 } ')
        + "}"
        for name in MODELS
    ]
    file = folder / "models.config"
    file.write_text("model_config_list { " + "\n".join(configs) + " }")
    return file


def test_every_situation_ends_as_it_does_upstream(
    conformance_python: str, config_file: Path, written_models: Path
) -> None:
    half_plus_two = written_models / "half_plus_two"
    with (
        ServerProcess(
            "default",
            half_plus_two,
            f"--model_config_file={config_file}",
            "--max_num_load_retries=0",
            "--prefer_tflite_model",
            "--wait_for_models",
        ) as server,
        ServerProcess(
            "half_plus_two", half_plus_two, "--enable_signature_method_name_check"
        ) as strict,
    ):
        told = told_by(conformance_python, "error_table", server.address, strict.address)
        _, log = server.stop()

    assert told["wrong"] == {}
    assert told["rows"] > 100
    assert "Traceback" not in log
