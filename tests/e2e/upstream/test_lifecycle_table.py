"""Every rule of a version's life that clients can see, by upstream's own stubs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from e2e.serving import ServerProcess
from e2e.upstream.official import told_by

pytestmark = pytest.mark.conformance


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
        told = told_by(conformance_python, "lifecycle_table", server.address, root)
        _, log = server.stop()

    assert told["wrong"] == {}
    assert told["rows"] > 100
    assert "Traceback" not in log
