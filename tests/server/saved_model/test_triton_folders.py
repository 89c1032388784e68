"""Versions whose SavedModel lies in a folder of its own, as Triton keeps it, read by TensorFlow."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ladle.protos.files.integrity import find_missing, model_folder
from ladle.protos.model_card import ModelCard
from ladle.server.config import Config
from ladle.server.core.servable_id import ServableId
from ladle.server.settings.platform_config import PlatformConfig
from ladle.server.wiring.loading import saved_model_loader

pytestmark = pytest.mark.e2e  # TensorFlow writes and reads the models


@pytest.fixture
def version(written_models: Path, tmp_path: Path) -> Path:
    """Version 1 of a model in `1/model.savedmodel`."""
    folder = tmp_path / "half" / "1"
    shutil.copytree(written_models / "half_plus_two_tf2" / "1", folder / "model.savedmodel")
    return folder


def test_the_folder_inside_is_the_model(version: Path) -> None:
    assert model_folder(version) == version / "model.savedmodel"
    assert find_missing(version) is None
    variables = version / "model.savedmodel" / "variables" / "variables.index"
    variables.unlink()
    assert find_missing(version) == "there is no variables/variables.index"


def test_a_model_in_the_versions_own_folder_comes_first(
    written_models: Path, version: Path
) -> None:
    plain = written_models / "half_plus_two_tf2" / "1"
    assert model_folder(plain) == plain
    shutil.copy(plain / "saved_model.pb", version)
    assert model_folder(version) == version


def test_a_folder_without_a_model_is_named_as_it_is(tmp_path: Path) -> None:
    assert model_folder(tmp_path) == tmp_path
    assert find_missing(tmp_path) == "there is no saved_model.pb"
    (tmp_path / "model.savedmodel").mkdir()
    assert find_missing(tmp_path) == "there is no saved_model.pb"


def test_it_is_loaded_and_has_the_labels_of_the_config(version: Path) -> None:
    (version.parent / "config.pbtxt").write_text('output { label_filename: "labels.txt" }')
    (version.parent / "labels.txt").write_text("ant\nbee\n")
    load = saved_model_loader(Config(model_base_path=str(version.parent)), PlatformConfig())
    model = load(ServableId("half", 1), version)
    signature = model.signatures["serving_default"]
    (x,), (y,) = signature.inputs, signature.outputs
    outputs = model.run(signature, {x: np.array([2, 4], np.float32)}, (y,))
    assert outputs[y].ravel().tolist() == [3, 4]
    assert ModelCard.from_json(model.card_json or "").labels == ("ant", "bee")
    model.close()
