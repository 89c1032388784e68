from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ladle.server.saved_model.integrity import missing

ONE_COPY: dict[str, Any] = {
    "suppress_health_check": [HealthCheck.function_scoped_fixture],
    "deadline": None,
}
pytestmark = pytest.mark.e2e  # TensorFlow writes the models


@pytest.fixture(scope="module", params=["half_plus_two", "half_plus_two_tf2"])
def version(request: pytest.FixtureRequest, written_models: Path) -> Path:
    return written_models / str(request.param) / "1"


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    return shutil.copytree(version, tmp_path / "1")


def files(version: Path) -> list[Path]:
    """The files that a model can't do without, relative to its folder."""
    every = (path.relative_to(version) for path in version.rglob("*") if path.is_file())
    return [path for path in every if path.name != "fingerprint.pb"]


def test_what_tensorflow_wrote_is_whole(version: Path) -> None:
    assert missing(version) is None


def test_each_file_is_missed(copy: Path) -> None:
    for path in files(copy):
        taken = (copy / path).rename(copy.parent / "taken")
        assert missing(copy), path
        taken.rename(copy / path)


def test_no_order_of_copying_seems_whole_before_the_end(version: Path, tmp_path: Path) -> None:
    for number, first in enumerate(files(version)):
        folder = tmp_path / str(number)
        folder.mkdir()
        order = [first, *(path for path in files(version) if path != first)]
        for path in order:
            assert missing(folder), f"{order} before {path}"
            (folder / path).parent.mkdir(exist_ok=True)
            data = (version / path).read_bytes()
            (folder / path).write_bytes(data[: len(data) // 2])
            assert missing(folder), f"{order} amid {path}"
            (folder / path).write_bytes(data)
        assert missing(folder) is None


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_file_cut_anywhere_is_noticed(copy: Path, data: st.DataObject) -> None:
    path = copy / data.draw(st.sampled_from(files(copy)))
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))

    path.write_bytes(whole[:cut])
    try:
        assert missing(copy)
    finally:
        path.write_bytes(whole)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_garbage_is_judged_without_breaking(copy: Path, data: st.DataObject) -> None:
    path = copy / data.draw(st.sampled_from(files(copy)))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    garbage = data.draw(st.binary(min_size=1, max_size=20))

    path.write_bytes(whole[:at] + garbage + whole[at + len(garbage) :])
    try:
        assert isinstance(missing(copy), str | None)
    finally:
        path.write_bytes(whole)


def test_other_forms_of_a_model_are_taken_as_they_are(tmp_path: Path) -> None:
    assert missing(tmp_path) == "there is no saved_model.pb"
    for name in ("model.tflite", "saved_model.pbtxt"):
        (tmp_path / name).write_bytes(b"x")
        assert missing(tmp_path) is None
        (tmp_path / name).unlink()
    assert missing(tmp_path / "nope") == "it is not a folder"
