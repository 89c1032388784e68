from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ladle.export import PublishError
from ladle.export.models.cli import main
from ladle.export.models.manage import (
    find_version,
    hide,
    list_versions,
    read_labels,
    restore,
    set_label,
    to_prune,
)
from ladle.export.publishing.card import write_card
from ladle.export.publishing.publish import publish, staging_folder
from ladle.export.report.evaluation import EVALUATION_PATH
from ladle.protos.files.versions import LABELS_NAME
from ladle.protos.model_card import CARD_PATH, ModelCard


@pytest.fixture
def base_path(tmp_path: Path) -> Path:
    """Versions 1 to 4 of a model, of accuracies 0.1 to 0.4; 2 is labelled."""
    folder = tmp_path / "models" / "digits"
    for number in range(1, 5):
        version = folder / str(number)
        version.mkdir(parents=True)
        (version / "saved_model.pb").write_bytes(b"\x12\x00")  # a graph with nothing in it
        card = ModelCard(
            metrics={"accuracy": number / 10},
            provenance={
                "created": f"day {number}",
                "training": {"epochs": number, "seed": 0},
                "history": {"epochs": [1], "loss": [1 / number]},
            },
        )
        write_card(card, version)
    set_label(folder, "stable", 2)
    return folder


def names(base_path: Path) -> list[str]:
    return sorted(path.name for path in base_path.iterdir() if path.name != LABELS_NAME)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 1
    line = capsys.readouterr().err
    assert line.startswith("ladle models: ")
    assert line.count("\n") == 1
    return line


def test_versions_are_listed_with_what_serves_and_what_is_labelled(base_path: Path) -> None:
    hide(base_path, 3)
    listed = list_versions(base_path)
    assert [(v.version, v.serves, v.hidden, v.labels) for v in listed] == [
        (1, False, False, ()),
        (2, False, False, ("stable",)),
        (3, False, True, ()),
        (4, True, False, ()),
    ]


def test_a_rollback_takes_the_newest_out_of_sight_and_brings_it_back(base_path: Path) -> None:
    assert hide(base_path).version == 4
    assert find_version(base_path).version == 3
    assert "4" not in names(base_path)
    assert restore(base_path).version == 4
    assert names(base_path) == ["1", "2", "3", "4"]


def test_a_version_out_of_sight_keeps_its_number(base_path: Path) -> None:
    hide(base_path)
    with staging_folder(base_path) as folder:
        (folder / "saved_model.pb").write_bytes(b"new")
        assert publish(folder).version == 5
    with staging_folder(base_path) as folder:
        (folder / "saved_model.pb").write_bytes(b"new")
        with pytest.raises(PublishError, match="version 4 is there already"):
            publish(folder, 4)
    assert restore(base_path).version == 4


def test_what_is_labelled_or_alone_stays_in_sight(base_path: Path) -> None:
    with pytest.raises(PublishError, match="version 2 is labelled stable; move the label first"):
        hide(base_path, 2)
    for number in (4, 3, 1):
        hide(base_path, number)
    set_label(base_path, "stable", None)
    with pytest.raises(PublishError, match="version 2 is the only one in sight"):
        hide(base_path)
    with pytest.raises(PublishError, match="expected version 9 out of sight, found 1, 3, 4"):
        restore(base_path, 9)


def test_pruning_keeps_the_newest_the_labelled_the_serving_and_the_hidden(base_path: Path) -> None:
    versions = list_versions(base_path)
    assert [v.version for v in to_prune(versions, keep=1)] == [1, 3]
    assert [v.version for v in to_prune(versions, keep=2)] == [1]
    assert to_prune(versions, keep=4) == []
    hide(base_path, 1)
    assert [v.version for v in to_prune(list_versions(base_path), keep=1)] == [3]


def test_what_is_not_whole_takes_no_place_and_may_be_on_its_way(base_path: Path) -> None:
    for number in (1, 5, 6):
        (base_path / str(number)).mkdir(exist_ok=True)
        (base_path / str(number) / "saved_model.pb").unlink(missing_ok=True)
    versions = list_versions(base_path)
    assert [v.version for v in to_prune(versions, keep=2)] == [1]
    assert [v.version for v in to_prune(versions, keep=1)] == [1, 3]
    assert to_prune(versions, keep=4) == []


def test_prune_removes_or_only_tells(base_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "prune", base_path, "--keep", 1, "--dry-run")
    assert told == {"removed": [1, 3], "dry_run": True}
    assert names(base_path) == ["1", "2", "3", "4"]
    assert run(capsys, "prune", base_path, "--keep", 1)["removed"] == [1, 3]
    assert names(base_path) == ["2", "4"]


def test_a_linked_version_is_unlinked_and_what_it_points_to_stays(
    base_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base_path / "1").rename(tmp_path / "elsewhere")
    (base_path / "1").symlink_to(tmp_path / "elsewhere")
    run(capsys, "prune", base_path, "--keep", 3)
    assert names(base_path) == ["2", "3", "4"]
    assert (tmp_path / "elsewhere" / "saved_model.pb").exists()


def test_a_label_moves_and_goes(base_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "label", base_path, "stable", 3) == {"stable": 3}
    assert run(capsys, "label", base_path, "canary", 4) == {"stable": 3, "canary": 4}
    assert run(capsys, "label", base_path, "stable", "--remove") == {"canary": 4}
    assert run(capsys, "label", base_path) == {"canary": 4}
    assert "expected version 9, found 1, 2, 3, 4" in refused(capsys, "label", base_path, "x", 9)
    assert "there is no label x" in refused(capsys, "label", base_path, "x", "--remove")
    assert "expected letters" in refused(capsys, "label", base_path, "a/b", 1)
    assert "expected LABEL and N" in refused(capsys, "label", base_path, "x")


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": "1"}', '{"a": true}'])
def test_damaged_labels_are_one_line(base_path: Path, content: str) -> None:
    (base_path / LABELS_NAME).write_text(content)
    with pytest.raises(PublishError, match=LABELS_NAME):
        read_labels(base_path)


def test_list_finds_models_under_a_folder(
    base_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base_path.parent / "empty").mkdir()
    listed = run(capsys, "list", base_path.parent)
    assert [(row["model"], row["version"], row["metrics"]["accuracy"]) for row in listed] == [
        ("digits", number, number / 10) for number in range(1, 5)
    ]
    assert main(["list", str(base_path)]) == 0
    header, first, *_, last = capsys.readouterr().out.splitlines()
    assert header.startswith("MODEL   VERSION  STATE   LABELS  METRICS")
    assert "accuracy 0.1000" in first
    assert "serves" in last
    assert "No such file" in refused(capsys, "list", base_path / "nowhere")


def test_show_takes_a_base_path_or_a_version(
    base_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "show", base_path)["card"]["metrics"] == {"accuracy": 0.4}
    shown = run(capsys, "show", base_path / "2")
    assert (shown["version"], shown["labels"]) == (2, ["stable"])
    assert main(["show", str(base_path / "2")]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert (rows["version"], rows["labels"]) == ("2", "['stable']")
    assert rows["card.metrics.accuracy"] == "0.2"
    assert not any("history" in key for key in rows)
    empty = base_path.parent / "empty"
    empty.mkdir()
    assert f"no versions under base path {empty}" in refused(capsys, "show", empty)
    (empty / "saved_model.pb").touch()
    assert "is a model itself, expected the folder of its versions: move it to" in refused(
        capsys, "show", empty
    )


def test_show_says_what_a_server_will_batch_and_why(
    base_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version = base_path / "4"
    every = "(all signatures)"
    assert run(capsys, "show", version)["batching"] == {every: "on trial: nobody vouches for it"}

    card = ModelCard(signatures={"a": {}, "b": {}}, row_independent_signatures=("a",))
    write_card(card, version)
    assert run(capsys, "show", version)["batching"] == {
        "a": "vouched: the model card says that its rows are independent",
        "b": "on trial: nobody vouches for it",
    }

    own = version / "batching_params.pbtxt"
    own.write_text("max_batch_size { value: 8 }")
    assert run(capsys, "show", version)["batching"] == {
        every: "vouched: batching_params.pbtxt in the version's folder"
    }
    own.write_text("# rows mix\noff\n")
    assert run(capsys, "show", version)["batching"] == {
        every: "alone: batching_params.pbtxt says off"
    }


def test_compare_tells_what_differs_and_no_more(
    base_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "compare", base_path, 1, 4) == {
        "metrics.accuracy": [0.1, 0.4],
        "provenance.created": ["day 1", "day 4"],
        "provenance.training.epochs": [1, 4],
    }
    assert main(["compare", str(base_path), "1", "4"]) == 0
    assert "provenance.training.epochs  1      4" in capsys.readouterr().out


def test_rollback_says_what_serves(base_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, "rollback", base_path)
    assert told == {"version": 4, "hidden": True, "serves": 3}
    told = run(capsys, "rollback", base_path, "--restore")
    assert told == {"version": 4, "hidden": False, "serves": 4}


def test_wrong_usage_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["prune", "m"], ["prune", "m", "--keep=0"], ["compare", "m", "a", "b"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_labels_are_changed_one_at_a_time(base_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever else wants to read them, to change them, waits until they are written."""
    replace = Path.replace
    waited = []

    def replace_while_another_asks(path: Path, target: Path) -> Path:
        another = os.open(base_path, os.O_RDONLY)
        try:
            fcntl.flock(another, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited.append(target)
        finally:
            os.close(another)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replace_while_another_asks)
    set_label(base_path, "canary", 4)
    assert waited == [base_path / LABELS_NAME]
    assert read_labels(base_path) == {"stable": 2, "canary": 4}


def test_a_label_of_a_model_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "label", tmp_path / "gone", "stable", 1)
    assert line.endswith("gone: cannot be read: No such file or directory\n")


def test_a_label_to_remove_has_to_be_named(
    base_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "expected LABEL and N, or LABEL and --remove" in refused(
        capsys, "label", base_path, "--remove"
    )


def test_a_version_out_of_sight_is_found_by_its_number(
    base_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(base_path, 4)
    told = run(capsys, "show", base_path / "4")
    assert (told["version"], told["hidden"]) == (4, True)
    line = refused(capsys, "show", base_path / "9")
    assert line.endswith("digits: expected version 9, found 1, 2, 3, 4\n")


def test_a_fifo_is_not_waited_for(base_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = base_path / "3"
    (version / CARD_PATH).unlink()
    for name in (CARD_PATH, "batching_params.pbtxt", EVALUATION_PATH):
        os.mkfifo(version / name)
    shown = run(capsys, "show", version)
    assert shown["card"] == {}
    assert "expected a regular file, got a FIFO" in str(shown["batching"])
    assert "expected a regular file, got a FIFO" in refused(capsys, "report", version)
    (version / "saved_model.pb").unlink()
    os.mkfifo(version / "saved_model.pb")
    assert run(capsys, "show", version)["problem"] == "there is no saved_model.pb"


def test_only_what_is_whole_serves(base_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server passes over what is still being copied."""
    (base_path / "4" / "saved_model.pb").unlink()
    listed = {row["version"]: row for row in run(capsys, "list", base_path)}
    assert [listed[n]["serves"] for n in (3, 4)] == [True, False]
    assert listed[4]["problem"] == "there is no saved_model.pb"
    assert run(capsys, "show", base_path)["version"] == 3
    assert main(["list", str(base_path)]) == 0
    assert "not whole" in capsys.readouterr().out.splitlines()[-1]
    for number in (1, 2):
        (base_path / str(number) / "saved_model.pb").write_bytes(b"\x12")
    told = refused(capsys, "rollback", base_path)
    assert "version 3 is the only one in sight that is whole" in told
    (base_path / "3" / "saved_model.pb").unlink()
    assert "expected a version that is whole, found 1 (" in refused(capsys, "show", base_path)


@pytest.mark.parametrize("command", ["label", "promote", "demote"])
def test_the_labels_of_a_folder_that_is_not_there_are_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They read as a folder without labels."""
    assert main([command, str(tmp_path / "typo")]) != 0
    assert "typo: expected a model's folder, found none" in capsys.readouterr().err
