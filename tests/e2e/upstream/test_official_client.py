"""The client of the package tensorflow-serving-api against our server, and beside our client."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from e2e.serving import ServerProcess

from ladle.export import load_data

pytestmark = pytest.mark.conformance

SCRIPT = Path(__file__).resolve().parents[2] / "conformance" / "official_client.py"


@pytest.mark.parametrize("first", ["ladle", "upstream"])
def test_both_clients_get_the_same_answers_in_one_process_whichever_comes_first(
    first: str, conformance_python: str, digits_server: ServerProcess, tmp_path: Path
) -> None:
    images = tmp_path / "images.npy"
    np.save(images, load_data("digits").x_test[:50])

    ended = subprocess.run(
        [conformance_python, SCRIPT, first, digits_server.address, "digits", images],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout)
    ladle, upstream = answers["ladle"], answers["upstream"]
    assert {"serving_default", "serving_uint8"} <= set(upstream.pop("signatures"))
    np.testing.assert_allclose(ladle.pop("probabilities"), upstream.pop("probabilities"), atol=1e-5)
    assert ladle == upstream
    assert upstream["version"] == 1
    assert upstream["states"] == [30]
    assert "Servable" in upstream["unknown"]
