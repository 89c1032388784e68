"""What a client sees of a batch queue that is full, or waits too long, by upstream's own stubs."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e.serving import ServerProcess
from e2e.upstream.official import told_by

pytestmark = pytest.mark.conformance

# So long that no batch runs for any other reason than that it is full.
PARAMETERS = """
    max_batch_size { value: 4 }
    max_enqueued_batches { value: 1 }
    num_batch_threads { value: 1 }
    batch_timeout_micros { value: 600000000 }
"""


def test_a_full_queue_and_a_late_batch_end_as_told(
    conformance_python: str, written_models: Path, tmp_path: Path
) -> None:
    parameters = tmp_path / "batching.config"
    parameters.write_text(PARAMETERS)
    with ServerProcess(
        "half_plus_two",
        written_models / "half_plus_two",
        f"--batching_parameters_file={parameters}",
        "--wait_for_models",
    ) as server:
        told = told_by(conformance_python, "batching_table", server.address)
        _, log = server.stop()

    assert told["wrong"] == {}
    assert told["rows"] == 10
    assert "Traceback" not in log
