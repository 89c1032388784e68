"""A model with the operations of another package, which TensorFlow Serving has built in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from e2e.serving import ServerProcess, serve_in_vain
from e2e.upstream.official import told_by

from ladle.client import Client

pytestmark = pytest.mark.conformance


@pytest.fixture(scope="module")
def text_model(conformance_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base_path = tmp_path_factory.mktemp("text")
    if not told_by(conformance_python, "text_model", base_path / "1")["written"]:
        pytest.skip("tensorflow-text has no wheel for this machine")
    return base_path


def test_a_model_of_tensorflow_text_is_served_once_its_package_is_imported(
    conformance_python: str, text_model: Path
) -> None:
    flag = "--import_modules=tensorflow_text"
    with (
        ServerProcess("text", text_model, flag, python=conformance_python) as server,
        Client(server.address) as client,
    ):
        text = np.array([b"Hello World", "ÄÖÜ".encode()], object)
        answer = client.predict("text", {"text": text})["lowered"]
    assert [one.decode() for one in answer] == ["hello world", "äöü"]


def test_without_its_package_the_server_says_which_one_to_import(text_model: Path) -> None:
    code, said = serve_in_vain(
        "--port=auto", "--model_name=text", f"--model_base_path={text_model}", "--wait_for_models"
    )
    assert code == 1
    assert said.splitlines()[-1].endswith(
        "the model needs the operation 'CaseFoldUTF8' of the package tensorflow_text: install it, "
        "and start with --import_modules=tensorflow_text"
    )
