from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ladle.server import Config, Server, StartupError
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable_id import ServableId
from ladle.server.saved_model.loading import LoadOptions, load_saved_model
from ladle.server.saved_model.session_config import SessionOptions, session_config


def test_nothing_asked_for_leaves_all_to_tensorflow() -> None:
    assert session_config(SessionOptions()).ByteSize() == 0


def test_flags_count_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    file.write_text(
        "intra_op_parallelism_threads: 3 inter_op_parallelism_threads: 4 "
        "gpu_options { allow_growth: true }"
    )
    config = session_config(
        SessionOptions(config_file=file, intra_op_threads=5, gpu_memory_fraction=0.5)
    )
    assert config.intra_op_parallelism_threads == 5
    assert config.inter_op_parallelism_threads == 4
    assert config.gpu_options.allow_growth
    assert config.gpu_options.per_process_gpu_memory_fraction == 0.5


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), (b"\xff", "it is no text"), (b"threads: 3", 'named "threads"')],
)
def test_a_file_of_no_use_ends_the_start(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "session.config"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidArgument, match=says):
        session_config(SessionOptions(config_file=file))
    config = Config(port=None, model_base_path="m", tensorflow_session_config_file=str(file))
    with pytest.raises(StartupError, match="--tensorflow_session_config_file"):
        Server(config)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "options",
    [
        SessionOptions(intra_op_threads=1, inter_op_threads=2),
        SessionOptions(xla_on_cpu=True),
        SessionOptions(xla_on_gpu=True, gpu_memory_fraction=0.5),
        SessionOptions(bfloat16=True),
    ],
    ids=["threads", "xla on cpu", "xla on gpu", "bfloat16"],
)
def test_tensorflow_takes_every_setting(written_models: Path, options: SessionOptions) -> None:
    path = written_models / "half_plus_two_tf2" / "1"
    load_options = LoadOptions(config=session_config(options))
    servable = load_saved_model(ServableId("m", 1), path, load_options)
    x = np.array([[2]], np.float32)
    found = servable.run(servable.signatures["serving_default"], {"x": x}, ("y",))
    servable.close()
    assert found["y"].tolist() == [[3]]
