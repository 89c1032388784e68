from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from stores import FakeStore

from ladle.server.core.errors import InvalidArgument
from ladle.server.core.models.config import ModelConfig
from ladle.server.settings.model_root import ModelRoot
from ladle.store.errors import Unreachable
from ladle.store.url import parse_url

URL = parse_url("s3://bucket/models")


class Setting:
    """A folder, its root, and what was put in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "models"
        self.folder.mkdir()
        self.placed: list[list[str]] = []
        self.root = ModelRoot(self.folder, self.place, poll_wait_s=1.0)

    def publish(self, *paths: str) -> None:
        for path in paths:
            (self.folder / path).mkdir(parents=True)

    def place(self, models: tuple[ModelConfig, ...]) -> None:
        self.placed.append([model.name for model in models])


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


def test_each_folder_with_numbered_folders_is_a_model(setting: Setting) -> None:
    setting.publish("b/1", "a/007", "notes/drafts", ".hidden")
    (setting.folder / "readme.txt").touch()

    models = setting.root.read()

    assert models == (
        ModelConfig("a", setting.folder / "a"),
        ModelConfig("b", setting.folder / "b"),
    )


def test_models_that_come_and_go_are_put_in_place(setting: Setting) -> None:
    setting.publish("a/1", "b/1", "c")
    setting.root.read()
    setting.root.step()
    assert setting.placed == [], "nothing has changed"

    setting.publish("c/1", "d/1")
    setting.root.step()
    (setting.folder / "a" / "1").rmdir()
    setting.root.step()
    (setting.folder / "a").rmdir()
    setting.root.step()

    assert setting.placed == [["a", "b", "c", "d"], ["b", "c", "d"]]


def test_a_folder_that_is_gone_or_empty_changes_nothing(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a volume that is not mounted any more."""
    setting.publish("a/1")
    setting.root.read()
    (setting.folder / "a" / "1").rmdir()
    (setting.folder / "a").rmdir()
    with caplog.at_level(logging.ERROR):
        setting.root.step()
        setting.root.step()
    (message,) = caplog.messages
    assert "holds no models: those that there were are left" in message
    setting.folder.rmdir()
    with caplog.at_level(logging.ERROR):
        setting.root.step()
    assert "can't be read: No such file or directory" in caplog.messages[-1]
    assert setting.placed == []


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "holds no models: expected folders with numbered folders in them"),
        (["a/b"], "holds no models: expected folders with numbered folders in them"),
        (["1/variables"], "holds versions of one model: expected the folder that holds models"),
    ],
)
def test_a_start_without_models_is_refused(
    setting: Setting, paths: list[str], message: str
) -> None:
    setting.publish(*paths)
    with pytest.raises(InvalidArgument, match=message):
        setting.root.read()


def test_what_is_no_model_is_looked_into_again_some_at_a_time(setting: Setting) -> None:
    """A poll of a folder with thousands of others must not look into each of them."""
    setting.publish("model/1", *(f"other{number}" for number in range(250)))
    setting.root.read()
    for number in range(250):
        (setting.folder / f"other{number}" / "1").mkdir()

    for _ in range(4):
        setting.root.step()

    assert [len(names) for names in setting.placed] == [101, 201, 251]


def stored_root(store: FakeStore, remembered: Path, place: Callable[..., None]) -> ModelRoot:
    return ModelRoot(URL, place, poll_wait_s=1.0, remembered=remembered, open_store=lambda _: store)


def test_a_store_is_asked_once_for_all_models(tmp_path: Path) -> None:
    store = FakeStore()
    for name in ("a", "b", "c"):
        store.write(f"models/{name}/1/saved_model.pb", b"")

    models = stored_root(store, tmp_path / "roots" / "x.json", print).read()

    assert models == tuple(ModelConfig(name, URL / name) for name in ("a", "b", "c"))
    assert store.requests == [("list", "models")]


def test_a_start_without_the_store_has_the_models_of_the_last_time(tmp_path: Path) -> None:
    store = FakeStore()
    store.write("models/a/1/saved_model.pb", b"")
    remembered = tmp_path / "roots" / "x.json"
    stored_root(store, remembered, print).read()

    def unreachable(_request: str, _key: str) -> None:
        raise Unreachable("s3://bucket: no answer")

    store.before = unreachable

    assert stored_root(store, remembered, print).read() == (ModelConfig("a", URL / "a"),)
    with pytest.raises(InvalidArgument, match="no answer"):
        stored_root(store, tmp_path / "other.json", print).read()
    remembered.write_text("nonsense")
    with pytest.raises(InvalidArgument, match="no answer"):
        stored_root(store, remembered, print).read()


def test_a_folder_whose_name_is_no_text_is_no_model(
    setting: Setting, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing that lists models could have it in a message."""
    setting.publish("a/1", "b\udcff/1")

    assert [model.name for model in setting.root.read()] == ["a"]
    setting.root.step()
    (said,) = caplog.messages
    assert r"b\udcff': expected a name in UTF-8" in said
    assert setting.placed == []
