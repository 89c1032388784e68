from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from stores import BASE, FakeStore, publish

from ladle.export import PublishError
from ladle.export.models.cli import main
from ladle.export.models.promotion import demoted, promoted


def test_promotion_moves_three_labels_and_leaves_the_others() -> None:
    before = {"stable": 1, "canary": 2, "eu": 1}
    after = promoted(before)
    assert after == {"stable": 2, "previous": 1, "eu": 1}
    assert demoted(after) == {"stable": 1, "eu": 1}
    assert promoted({"trial": 3}, "trial") == {"stable": 3}
    # What is stable already is nothing to go back to.
    assert promoted({"stable": 2, "canary": 2, "previous": 1}) == {"stable": 2, "previous": 1}


@pytest.mark.parametrize(
    ("labels", "canary", "message"),
    [
        ({}, "canary", "expected the label canary, found none"),
        ({"stable": 1}, "canary", "expected the label canary, found stable"),
        ({"stable": 1}, "stable", "expected a label other than stable and previous"),
    ],
)
def test_what_can_not_be_promoted(labels: dict[str, int], canary: str, message: str) -> None:
    with pytest.raises(PublishError, match=message):
        promoted(labels, canary)


def test_there_has_to_be_a_way_back() -> None:
    with pytest.raises(PublishError, match="expected the label previous, found stable"):
        demoted({"stable": 1})


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        for number in "12":
            (tmp_path / "m" / number).mkdir(parents=True)
            (tmp_path / "m" / number / "saved_model.pb").write_bytes(b"graph")
        return str(tmp_path / "m")
    store = FakeStore()
    for version in 1, 2:
        publish(store, version, {"saved_model.pb": b"graph"})
    monkeypatch.setattr("ladle.export.models.places.open_store", lambda _url: store)
    return str(BASE)


def test_promote_and_demote(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    run("label", place, "stable", "1")
    run("label", place, "canary", "2")
    assert run("promote", place) == {"stable": 2, "previous": 1}
    assert main(["promote", place]) == 1
    assert "expected the label canary" in capsys.readouterr().err
    assert run("demote", place) == {"stable": 1}
    run("label", place, "trial", "2")
    assert run("promote", place, "--label", "trial")["stable"] == 2
