"""A folder of models, looked at again and again."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ladle.server.core.errors import InvalidArgument
from ladle.server.core.models.config import ModelConfig
from ladle.server.core.sources.version_policy import All, Latest
from ladle.server.settings.triton_repository import ModelRepository


class Looked:
    """A repository, and the names that it put in place."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.replaced: list[list[str]] = []
        self.repository = ModelRepository(
            folder,
            lambda models: self.replaced.append([model.name for model in models]),
            poll_wait_s=1.0,
            **settings,  # type: ignore[arg-type]
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in ("half/1/model.savedmodel", "simple/2", "notes", "later"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "half" / "config.pbtxt").write_text("version_policy { all { } }")
    (tmp_path / "later" / "config.pbtxt").write_text("")
    (tmp_path / "README").write_text("")
    return tmp_path


def test_every_folder_with_versions_or_a_config_is_a_model(folder: Path) -> None:
    assert Looked(folder).repository.read() == (
        ModelConfig("half", folder / "half", All()),
        ModelConfig("later", folder / "later", Latest()),
        ModelConfig("simple", folder / "simple", Latest()),
    )


def test_only_those_that_are_asked_for_are_read(folder: Path) -> None:
    asked = Looked(folder, only={"simple"}).repository
    assert [model.name for model in asked.read()] == ["simple"]
    found = asked.find("half")
    assert found is not None
    assert found.policy == All()
    assert asked.find("nope") is asked.find("notes") is asked.find("../x") is None
    assert asked.names() == ["half", "later", "simple"]
    with pytest.raises(InvalidArgument, match=r"a folder for each .*, found none for nope"):
        Looked(folder, only={"simple", "nope"}).repository.read()


def test_a_model_that_can_not_be_served_is_left_out_and_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "simple" / "config.pbtxt").write_text('backend: "onnxruntime"')
    looked = Looked(folder)
    assert [model.name for model in looked.repository.read()] == ["half", "later"]
    looked.repository.step()
    told = [r.message for r in caplog.records if r.levelno == logging.ERROR]
    assert len(told) == 1
    assert 'backend: expected "tensorflow", got "onnxruntime"' in told[0]
    with pytest.raises(InvalidArgument, match="backend: expected"):
        looked.repository.find("simple")
    (folder / "simple" / "config.pbtxt").write_text("")
    looked.repository.step()
    assert looked.replaced == [["half", "later", "simple"]]


def test_a_folder_whose_name_is_no_text_is_left_out_and_told_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "b\udcff" / "1").mkdir(parents=True)
    looked = Looked(folder)
    assert [model.name for model in looked.repository.read()] == ["half", "later", "simple"]
    looked.repository.step()
    (said,) = caplog.messages
    assert r"b\udcff': expected a name in UTF-8" in said


def test_later_looks_find_what_has_changed(folder: Path) -> None:
    looked = Looked(folder)
    looked.repository.read()
    looked.repository.step()
    assert looked.replaced == []
    (folder / "new" / "1").mkdir(parents=True)
    shutil.rmtree(folder / "half")
    looked.repository.step()
    assert looked.replaced == [["later", "new", "simple"]]
    (folder / "new" / "config.pbtxt").write_text("version_policy { all { } }")
    looked.repository.step()
    assert len(looked.replaced) == 2


def test_a_config_that_turns_wrong_leaves_the_model_as_it_was(folder: Path) -> None:
    looked = Looked(folder)
    before = looked.repository.read()
    (folder / "half" / "config.pbtxt").write_text("version_policy: {")
    looked.repository.step()
    assert looked.replaced == []
    assert looked.repository.read() == before


def test_a_repository_that_turns_empty_leaves_the_models(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a volume is not mounted any more."""
    looked = Looked(folder)
    looked.repository.read()
    for child in folder.iterdir():
        if child.is_dir():
            shutil.rmtree(child)
    looked.repository.step()
    looked.repository.step()
    assert looked.replaced == []
    assert len([r for r in caplog.records if "holds no models" in r.message]) == 1
    (folder / "new" / "1").mkdir(parents=True)
    looked.repository.step()
    assert looked.replaced == [["new"]]


def test_a_model_whose_folder_can_not_be_read_leaves_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = Looked(folder)
    before = looked.repository.read()
    real = os.listdir

    def listdir(path: Path) -> list[str]:
        if path.name == "half":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    looked.repository.step()
    assert looked.replaced == []
    assert looked.repository.read() == before
    assert [model.name for model in Looked(folder).repository.read()] == ["later", "simple"]


def test_a_folder_that_is_gone_changes_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    looked = Looked(folder)
    looked.repository.read()
    shutil.rmtree(folder)
    looked.repository.step()
    looked.repository.step()
    assert looked.replaced == []
    assert looked.repository.find("half") is None
    assert looked.repository.names() == ()
    assert len([r for r in caplog.records if "can't be read" in r.message]) == 1
    with pytest.raises(InvalidArgument, match="can't be read: No such file"):
        looked.repository.read()


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c"]),
            st.sampled_from(["make", "remove", "spoil", "mend"]),
        ),
        max_size=12,
    )
)
@settings(deadline=None)
def test_a_model_goes_only_when_its_folder_does(changes: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        looked = Looked(folder)
        served = {model.name for model in looked.repository.read()}
        good: set[str] = set()
        for model, change in changes:
            config = folder / model / "config.pbtxt"
            if change == "make":
                (folder / model / "1").mkdir(parents=True, exist_ok=True)
                good.add(model)
            elif change == "remove":
                shutil.rmtree(folder / model, ignore_errors=True)
                good.discard(model)
            elif config.parent.exists() and change in ("spoil", "mend"):
                config.write_text("{" if change == "spoil" else "max_batch_size: 2")
                (good.discard if change == "spoil" else good.add)(model)
            there = {child.name for child in folder.iterdir()}
            looked.repository.step()
            if looked.replaced:
                before, served = served, set(looked.replaced[-1])
                assert before & there <= served, "a model went whose folder is there"
            assert good <= served
            assert served <= there or not there, "a model stayed whose folder is gone"
