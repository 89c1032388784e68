from __future__ import annotations

from pathlib import Path

import pytest

from ladle.export import PublishError
from ladle.export.publishing.card import write_card
from ladle.export.publishing.history import now_serving, published_versions
from ladle.protos.model_card import ModelCard


def test_versions_are_the_folders_that_a_server_takes_for_them(tmp_path: Path) -> None:
    for name in ("10", "9", "latest", ".ladle-staging-1", "007"):
        (tmp_path / name).mkdir()
    (tmp_path / "11").write_text("no folder")
    assert published_versions(tmp_path) == {
        7: tmp_path / "007",
        9: tmp_path / "9",
        10: tmp_path / "10",
    }


def test_the_version_now_serving_is_the_highest_with_a_card(tmp_path: Path) -> None:
    assert now_serving(tmp_path) is None
    for number in (1, 2, 3, 4):
        (tmp_path / str(number)).mkdir()
    for number in (1, 2):
        write_card(ModelCard(metrics={"accuracy": number / 10}), tmp_path / str(number))
    (tmp_path / "3" / "assets.extra").mkdir()
    (tmp_path / "3" / "assets.extra" / "ladle.json").write_text("{")
    assert now_serving(tmp_path) == (2, ModelCard(metrics={"accuracy": 0.2}))


def test_a_base_path_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="cannot be read: No such file"):
        published_versions(tmp_path / "nowhere")
