"""What warm-up is asked for by flags, files and folders, on a whole server without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import FakeLoader

from ladle.protos import tensors
from ladle.protos.serving_pb import PredictionLog
from ladle.server import Config, Server, StartupError
from ladle.server.core.servable_id import ServableId
from ladle.server.warmup.records import frame
from ladle.server.warmup.replay import WARMUP_PATH


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """The base path of a model whose version 1 brings a warm-up request of 3 rows."""
    log = PredictionLog()
    x = np.ones((3, 2), np.float32)
    log.predict_log.request.inputs["x"].CopyFrom(tensors.to_proto(x))
    file = tmp_path / "m" / "1" / WARMUP_PATH
    file.parent.mkdir(parents=True)
    file.write_bytes(frame(log.SerializeToString()))
    return tmp_path / "m"


def warmed(base_path: Path, **flags: object) -> list[int]:
    """Start a server, and return the rows of what ran before it took requests."""
    loader = FakeLoader()
    flags |= {"port": None, "model_name": "m", "drain_grace_seconds": 0.0}
    config = Config(model_base_path=str(base_path), **flags)  # type: ignore[arg-type]
    server = Server(config, load=loader)
    server.start()
    batches = list(loader.loaded[ServableId("m", 1)].batches)
    server.stop()
    return batches


def test_with_default_flags_the_request_runs_as_it_is_and_with_one_row(base_path: Path) -> None:
    assert warmed(base_path) == [3, 1]


def test_every_allowed_batch_size_runs(base_path: Path, tmp_path: Path) -> None:
    parameters = tmp_path / "batching.config"
    parameters.write_text(
        "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8"
    )
    assert warmed(base_path, batching_parameters_file=str(parameters)) == [3, 1, 4, 8]


def test_without_batching_no_other_size_runs(base_path: Path) -> None:
    assert warmed(base_path, enable_batching=False) == [3]


def test_iterations_and_the_switch_are_flags(base_path: Path) -> None:
    assert warmed(base_path, num_request_iterations_for_warmup=2) == [3, 3, 1]
    assert warmed(base_path, enable_model_warmup=False) == []


def test_a_version_whose_warm_up_fails_is_not_served(base_path: Path) -> None:
    (base_path / "1" / WARMUP_PATH).write_bytes(b"junk")
    with pytest.raises(StartupError, match="TFRecord"):
        warmed(base_path, max_num_load_retries=0)
