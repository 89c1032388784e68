"""`ladle models` on a place in a store does what it does on a folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from stores import BASE, FakeStore, upload_order
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from ladle.export import PublishError
from ladle.export.models.cli import main
from ladle.export.models.store import StoreKeeper
from ladle.export.publishing.store import StoreDestination
from ladle.export.saved_model.warmup import WARMUP_PATH
from ladle.protos.files.versions import HIDDEN_PREFIX, LABELS_NAME
from ladle.protos.model_card import ModelCard
from ladle.protos.serving_pb import PredictionLog
from ladle.server.warmup.records import frame
from ladle.store.errors import Denied
from ladle.store.layout import MANIFEST_NAME, MAX_OBJECTS, read_manifest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    """Versions 1 to 4 of a model, of accuracies 0.1 to 0.4; 2 is labelled."""
    from ladle.export.publishing.card import write_card

    made = FakeStore()
    for number in range(1, 5):
        (tmp_path / "saved_model.pb").write_bytes(b"graph")
        write_card(ModelCard(metrics={"accuracy": number / 10}), tmp_path)
        StoreDestination(BASE, made).publish(tmp_path)
    monkeypatch.setattr("ladle.export.models.places.open_store", lambda _url: made)
    StoreKeeper(BASE, made).set_label("stable", 2)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 1
    return capsys.readouterr().err


def test_list_and_show(store: FakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (BASE, BASE.parent):
        listed = run(capsys, "list", place)
        assert [(v["version"], v["serves"], v["labels"]) for v in listed] == [
            (1, False, []),
            (2, False, ["stable"]),
            (3, False, []),
            (4, True, []),
        ]
        assert listed[0]["path"] == f"{BASE}/1"
        assert listed[0]["metrics"] == {"accuracy": 0.1}
    before = len(store.reads)
    assert run(capsys, "show", BASE)["version"] == 4
    assert run(capsys, "show", BASE / "2")["card"]["metrics"] == {"accuracy": 0.2}
    assert not any(key.endswith("saved_model.pb") for key, *_ in store.reads[before:])
    assert run(capsys, "compare", BASE, 1, 2)["metrics.accuracy"] == [0.1, 0.2]


def test_an_unfinished_version_is_shown_and_never_serves(
    store: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, data in upload_order(5, {"saved_model.pb": b"graph"})[:-1]:
        store.write(key, data)
    listed = run(capsys, "list", BASE)
    assert [(v["version"], v["serves"], v["problem"]) for v in listed[-2:]] == [
        (4, True, ""),
        (5, False, "it is being published: it has no manifest yet"),
    ]
    del store.objects[f"{BASE.path}/4/assets.extra/ladle.json"]
    listed = run(capsys, "list", BASE)
    assert [(v["version"], v["serves"]) for v in listed[2:4]] == [(3, True), (4, False)]
    assert "lists assets.extra/ladle.json, which is not there" in listed[3]["problem"]


def test_labels_are_replaced_only_if_nobody_has_changed_them(
    store: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "label", BASE, "canary", 4) == {"stable": 2, "canary": 4}
    left = 2

    def meanwhile(request: str, key: str) -> None:
        nonlocal left
        if request == "put" and key.endswith(LABELS_NAME) and left:
            left -= 1
            store.write(key, json.dumps({"other": left + 1}).encode())

    store.before = meanwhile
    assert run(capsys, "label", BASE, "stable", 3) == {"other": 1, "stable": 3}
    left = 1000
    assert "try again" in refused(capsys, "label", BASE, "stable", 2)
    store.before = lambda _request, _key: None
    assert run(capsys, "label", BASE, "other", "--remove") == {}
    assert "there is no label x" in refused(capsys, "label", BASE, "x", "--remove")
    store.write(f"{BASE.path}/{LABELS_NAME}", b"nonsense")
    assert f"{BASE}/{LABELS_NAME}: cannot be read" in refused(capsys, "label", BASE)


def test_rollback_and_back(store: FakeStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "rollback", BASE) == {"version": 4, "hidden": True, "serves": 3}
    assert f"{BASE.path}/{HIDDEN_PREFIX}4" in store.objects
    assert "is out of sight already" in refused(capsys, "rollback", BASE, 4)
    assert "is labelled stable" in refused(capsys, "rollback", BASE, 2)
    assert run(capsys, "rollback", BASE, "--restore")["serves"] == 4
    assert "found none" in refused(capsys, "rollback", BASE, "--restore")


def test_prune_removes_all_of_a_version(
    store: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "prune", BASE, "--keep", 1, "--dry-run")["removed"] == [1, 3]
    assert run(capsys, "prune", BASE, "--keep", 1)["removed"] == [1, 3]
    folders = {key.split("/")[2] for key in store.objects}
    assert folders == {"2", "4", LABELS_NAME}


def test_what_a_store_refuses_is_one_line(
    store: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(_request: str, _key: str) -> None:
        raise Denied(f"{BASE}: the store refuses access")

    store.before = denied
    for arguments in (
        ["list", BASE],
        ["show", BASE],
        ["label", BASE, "a", 1],
        ["rollback", BASE],
        ["prune", BASE, "--keep", 1],
    ):
        said = refused(capsys, *arguments)
        assert said == f"ladle models: {BASE}: the store refuses access\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A request log with two requests, to signatures a and b."""
    path = tmp_path / "log"
    records = []
    for signature in "ab":
        log = PredictionLog()
        log.predict_log.request.model_spec.name = "m"
        log.predict_log.request.model_spec.signature_name = signature
        records.append(frame(log.SerializeToString()))
    path.write_bytes(b"".join(records))
    return path


def graph(*signatures: str) -> bytes:
    saved = SavedModel()
    for name in signatures:
        saved.meta_graphs.add().signature_def[name].method_name = "tensorflow/serving/predict"
    return bytes(saved.SerializeToString())


def test_a_warm_up_file_comes_into_a_store_with_the_manifest(
    store: FakeStore, capsys: pytest.CaptureFixture[str], tmp_path: Path, log: Path
) -> None:
    (tmp_path / "saved_model.pb").write_bytes(graph("a", "b"))
    placed = StoreDestination(BASE, store).publish(tmp_path)
    assert placed.version == 5
    key = f"{BASE.path}/5/{WARMUP_PATH}"
    for records in (2, 1):  # a new file, and one in its place
        told = run(capsys, "warmup", BASE, "--from", log, "--records", records)
        assert (told["version"], told["records"]) == (5, records)
        manifest = read_manifest(store.objects[f"{BASE.path}/5/{MANIFEST_NAME}"][0])
        listed = manifest[WARMUP_PATH]
        assert listed.size == len(store.objects[key][0])
        assert listed.sha256 == hashlib.sha256(store.objects[key][0]).hexdigest()
        assert StoreKeeper(BASE, store).find_version(5).problem == ""
    # What the version has beside it is as it was.
    assert store.objects[f"{BASE.path}/5/saved_model.pb"][0] == graph("a", "b")


def test_a_warm_up_file_of_a_version_without_a_manifest_is_one_more_object(
    store: FakeStore, capsys: pytest.CaptureFixture[str], log: Path
) -> None:
    store.write(f"{BASE.path}/9/saved_model.pb", graph("a"))
    assert run(capsys, "warmup", BASE, "--from", log)["records"] == 1
    assert f"{BASE.path}/9/{WARMUP_PATH}" in store.objects
    assert f"{BASE.path}/9/{MANIFEST_NAME}" not in store.objects


def test_a_version_that_others_change_meanwhile_keeps_their_manifest(
    store: FakeStore, capsys: pytest.CaptureFixture[str], tmp_path: Path, log: Path
) -> None:
    (tmp_path / "saved_model.pb").write_bytes(graph("a"))
    StoreDestination(BASE, store).publish(tmp_path)
    key = f"{BASE.path}/5/{MANIFEST_NAME}"

    def change(request: str, _key: str) -> None:
        if request == "upload":
            store.write(key, store.objects[key][0] + b" ")

    store.before = change
    assert refused(capsys, "warmup", BASE, "--from", log)
    assert store.objects[key][0].endswith(b" ")
    store.before = lambda _request, _key: None
    # Until it is said once more, no server begins to take the version.
    assert run(capsys, "warmup", BASE, "--from", log)["records"] == 1
    assert StoreKeeper(BASE, store).find_version(5).problem == ""


def test_a_copy_has_the_files_and_no_others(store: FakeStore, tmp_path: Path) -> None:
    keeper = StoreKeeper(BASE, store)
    version = keeper.find_version(1)
    with keeper.local_copy(version) as folder:
        assert (folder / "saved_model.pb").read_bytes() == b"graph"
        assert sorted(path.name for path in folder.iterdir()) == ["assets.extra", "saved_model.pb"]
    assert not folder.exists()
    store.write(f"{BASE.path}/1/../../evil", b"x")
    with pytest.raises(PublishError, match="names that files can have"), keeper.local_copy(version):
        pass


def test_a_version_that_no_server_takes_hides_no_other_and_can_be_removed(
    store: FakeStore, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(MAX_OBJECTS):
        store.objects[f"{BASE.path}/1/x{number}"] = (b"", f'"x{number}"', 0.0)
    store.write(f"{BASE.path}/3/a//b", b"")
    listed = run(capsys, "list", BASE)
    assert [version["serves"] for version in listed] == [False, False, False, True]
    assert listed[0]["problem"] == "expected at most 10000 files"
    assert "names that files can have" in listed[2]["problem"]
    assert run(capsys, "prune", BASE, "--keep", 1)["removed"] == [1, 3]
    folders = {key.split("/")[2] for key in store.objects}
    assert folders == {"2", "4", LABELS_NAME}
