"""Every rule of a version's life that clients can see, by upstream's own stubs."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from e2e.serving import ServerProcess

pytestmark = pytest.mark.conformance

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture
def root(written_models: Path, tmp_path: Path) -> Path:
    """Whole versions to copy, the base paths of the start, and models.config."""
    for source, name in (
        ("half_plus_two", "tf1"),
        ("half_plus_two_tf2", "tf2"),
        ("half_plus_two", "first/1"),
        ("half_plus_two", "labelled/1"),
        ("half_plus_two", "labelled/2"),
    ):
        shutil.copytree(written_models / source / "1", tmp_path / name)
    (tmp_path / "models.config").write_text(
        f"""model_config_list {{
          config {{
            name: "first" base_path: "{tmp_path}/first" model_platform: "tensorflow"
          }}
          config {{
            name: "labelled" base_path: "{tmp_path}/labelled" model_platform: "tensorflow"
            model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: 1 }}
          }}
        }}"""
    )
    return tmp_path


def test_versions_come_and_go_as_they_do_upstream(conformance_python: str, root: Path) -> None:
    with ServerProcess(
        "first",
        root / "first",
        f"--model_config_file={root / 'models.config'}",
        "--file_system_poll_wait_seconds=0.1",
        "--max_num_load_retries=0",
        "--wait_for_models",
    ) as server:
        ended = subprocess.run(
            [conformance_python, "-m", "conformance.lifecycle_table", server.address, root],
            cwd=TESTS,
            capture_output=True,
            text=True,
            check=False,
        )
        _, log = server.stop()

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["wrong"] == {}
    assert told["rows"] > 100
    assert "Traceback" not in log
