"""`ladle models --server`, on a whole server in this process whose loader needs no TensorFlow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import TIMEOUT_S, FakeServable

from ladle.client import Client
from ladle.export.models.cli import main
from ladle.export.models.manage import set_label
from ladle.export.publishing.card import write_card
from ladle.protos.files.versions import LABELS_NAME
from ladle.protos.model_card import CARD_PATH, ModelCard
from ladle.server import Config, Server
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.servable_id import ServableId

CONFIG = """
model_config_list {{
  config {{
    name: "digits" base_path: "{folder}/digits" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
  }}
  config {{ name: "empty" base_path: "{folder}/empty" model_platform: "tensorflow" }}
}}
"""


def load(servable_id: ServableId, path: Path) -> FakeServable:
    if servable_id.version == 3:
        raise InvalidArgument("no model at all")
    return FakeServable(card_json=(path / CARD_PATH).read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions 1 to 3 of `digits`, of which 3 does not load, and `empty`, which has none."""
    folder = tmp_path_factory.mktemp("served")
    for number in (1, 2, 3):
        version = folder / "digits" / str(number)
        version.mkdir(parents=True)
        write_card(ModelCard(metrics={"accuracy": number / 10}), version)
    (folder / "empty").mkdir()
    set_label(folder / "digits", "stable", 1)
    (folder / "models.config").write_text(CONFIG.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The server's address, once it has seen to every version."""
    settings: dict[str, Any] = {
        "port": None,
        "model_config_file": str(folder / "models.config"),
        "file_system_poll_wait_seconds": 0.01,
        "max_num_load_retries": 0,
        "drain_grace_seconds": 0,
    }
    server = Server(Config(**settings), load=load)
    server.open()
    manager = server.manager

    def is_over() -> bool:
        digits = {s.version: s.state.name for s in manager.status("digits")}
        return digits == {1: "AVAILABLE", 2: "AVAILABLE", 3: "END"} and manager.is_settled("empty")

    assert manager.wait_until(is_over, TIMEOUT_S)
    yield server.addresses[0]
    server.stop(lame_duck=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 1
    line = capsys.readouterr().err
    assert line.startswith("ladle models: ")
    assert line.count("\n") == 1
    return line


def test_list_tells_of_every_version_and_its_labels(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = run(capsys, "list", "--server", address)
    told = [(r["model"], r["version"], r["state"], r["serves"], r["labels"]) for r in listed]
    assert told == [
        ("digits", 1, "AVAILABLE", False, ["stable"]),
        ("digits", 2, "AVAILABLE", True, []),
        ("digits", 3, "END", False, []),
        ("empty", None, None, False, []),
    ]
    assert "no model at all" in listed[2]["error"]
    assert "no versions under base path" in listed[3]["problem"]
    assert [row["version"] for row in run(capsys, "list", "digits", "--server", address)] == [
        1,
        2,
        3,
    ]
    assert main(["list", "--server", address]) == 0
    header, first, *_ = capsys.readouterr().out.splitlines()
    assert header.split() == ["MODEL", "VERSION", "STATE", "LABELS", "PROBLEM"]
    assert first.split() == ["digits", "1", "AVAILABLE", "stable"]


def test_list_tells_what_is_not_loaded_before_somebody_asks(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Server(Config(port=None, model_root=str(folder), drain_grace_seconds=0), load=load)
    server.start()
    try:
        (row,) = run(capsys, "list", "--server", server.addresses[0])
    finally:
        server.stop(lame_duck=False)
    assert (row["model"], row["version"], row["state"]) == ("digits", None, "UNLOADED")


def test_show_tells_states_and_the_card_of_the_version_that_serves(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(capsys, "show", "digits", "--server", address)
    assert (shown["version"], shown["card"]["metrics"]) == (2, {"accuracy": 0.2})
    assert [version["state"] for version in shown["versions"]] == ["AVAILABLE", "AVAILABLE", "END"]
    assert run(capsys, "show", "digits/1", "--server", address)["version"] == 1


def test_compare_asks_for_both_cards(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    compared = run(capsys, "compare", "digits", 1, 2, "--server", address)
    assert compared == {"metrics.accuracy": [0.1, 0.2]}


def test_what_the_server_has_not_is_one_line(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "show", "digits/3", "--server", address)
    assert "version 3 of digits can't be loaded there: " in said
    assert "no model at all" in said
    assert "cats" in refused(capsys, "show", "cats", "--server", address)
    assert "expected a FOLDER or --server" in refused(capsys, "list")
    assert "nowhere" in refused(capsys, "list", "--server", "nowhere")


def test_a_label_of_the_folder_can_be_asked_for(folder: Path, address: str) -> None:
    assert (folder / "digits" / LABELS_NAME).exists()
    with Client(address) as client:
        assert client.metadata("digits", label="stable").version == 1


def test_a_version_that_is_not_loaded_is_told_with_how_it_would_be(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in "1", "2":
        shutil.copytree(folder / "digits" / version, tmp_path / "digits" / version)
    config = Config(
        port=None,
        model_name="digits",
        model_base_path=str(tmp_path / "digits"),
        file_system_poll_wait_seconds=0.01,
        drain_grace_seconds=0,
    )
    server = Server(config, load=load)
    server.start()
    manager = server.manager
    try:
        # Version 1 is served first where version 2 has just changed at the first look.
        only_2 = lambda: manager.is_available("digits", 2) > manager.is_available("digits", 1)  # noqa: E731
        assert manager.wait_until(only_2, TIMEOUT_S)
        compare = ("compare", "digits", 1, 2, "--server", server.addresses[0])
        said = refused(capsys, *compare)
        assert "version 1 of digits is not loaded there; loaded: 2; a label keeps it loaded" in said
        advice = said.strip().rpartition("ladle models ")[2].replace("NAME", "stable")
        run(capsys, *advice.split())
        assert manager.wait_until(lambda: manager.labels("digits") == {"stable": 1}, TIMEOUT_S)
        assert "metrics.accuracy" in run(capsys, *compare)
    finally:
        server.stop(lame_duck=False)
