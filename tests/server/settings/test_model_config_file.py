from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import FakeClock

from ladle.server.core.errors import FailedPrecondition, InvalidArgument
from ladle.server.core.models.config import ModelConfig
from ladle.server.settings.model_config_file import ConfigFile


class Harness:
    """A file, and what was made of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "models.config"
        self.write("m")
        self.put: list[list[str]] = []
        self.refused = False
        self.clock = FakeClock()
        self.file = ConfigFile(self.path, self.replace, poll_wait_s=5, clock=self.clock)

    def write(self, *names: str) -> None:
        configs = "".join(
            f'config {{ name: "{name}" base_path: "/{name}" model_platform: "tensorflow" }}'
            for name in names
        )
        self.path.write_text(f"model_config_list {{ {configs} }}")

    def replace(self, models: tuple[ModelConfig, ...]) -> None:
        if self.refused:
            raise FailedPrecondition("a label points nowhere")
        self.put.append([model.name for model in models])


@pytest.fixture
def setting(tmp_path: Path) -> Harness:
    return Harness(tmp_path)


def test_the_models_are_put_in_place_when_the_text_has_changed(setting: Harness) -> None:
    assert [model.name for model in setting.file.read()] == ["m"]
    setting.file.step()
    assert setting.put == []

    setting.write("m", "n")
    setting.file.step()
    setting.file.step()
    assert setting.put == [["m", "n"]]


def test_a_file_that_is_wrong_changes_nothing_and_is_complained_of_once(
    setting: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    setting.file.read()
    setting.path.write_text("model_config_list {")
    setting.file.step()
    setting.file.step()
    setting.path.unlink()
    setting.file.step()

    assert setting.put == []
    assert len(caplog.records) == 2
    assert "Error parsing text-format" in caplog.text
    assert "can't be read" in caplog.text


def test_what_was_refused_is_tried_again_at_the_next_poll(setting: Harness) -> None:
    setting.file.read()
    setting.write("n")
    setting.refused = True
    setting.file.step()
    setting.refused = False
    setting.file.step()

    assert setting.put == [["n"]]


def test_a_file_that_is_wrong_at_the_start_says_which_and_why(setting: Harness) -> None:
    setting.path.write_bytes(b"\xff")
    with pytest.raises(InvalidArgument, match=r"models\.config: can't be read"):
        setting.file.read()
    setting.path.write_text("x")
    with pytest.raises(InvalidArgument, match=r"models\.config: Error parsing text-format"):
        setting.file.read()


def test_it_is_polled_at_its_interval(setting: Harness) -> None:
    setting.file.read()
    setting.write("n")
    setting.file.start()
    while not setting.put:
        setting.clock.wait_until_sleeping(1)
        setting.clock.advance(5)
    setting.file.stop()

    assert setting.put == [["n"]]


@pytest.mark.parametrize("text", ["", " \n", "\ufeff\r\n"])
def test_an_empty_file_at_the_start_waits_for_a_reload(setting: Harness, text: str) -> None:
    """As upstream's does: the models come by HandleReloadConfigRequest, or with the next text."""
    setting.path.write_text(text)
    assert setting.file.read() == ()
    setting.file.step()
    assert setting.put == []
    setting.write("m")
    setting.file.step()
    assert setting.put == [["m"]]


def test_a_file_that_is_emptied_later_takes_no_model_away(setting: Harness) -> None:
    setting.file.read()
    setting.path.write_text("")
    setting.file.step()
    assert setting.put == []


def test_a_file_that_is_not_there_is_an_error_and_not_an_empty_one(setting: Harness) -> None:
    setting.path.unlink()
    with pytest.raises(InvalidArgument, match="No such file"):
        setting.file.read()


def test_a_file_that_windows_wrote_is_read(setting: Harness) -> None:
    text = setting.path.read_text().replace("{ config", "{\r\n  # ours\r\n  config")
    setting.path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [model.name for model in setting.file.read()] == ["m"]


def test_a_file_that_is_a_fifo_for_a_moment_is_read_again(
    setting: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    setting.file.read()
    setting.path.unlink()
    os.mkfifo(setting.path)
    setting.file.step()
    assert "expected a regular file, got a FIFO" in caplog.text
    setting.path.unlink()
    setting.write("n")
    setting.file.step()
    assert setting.put == [["n"]]
