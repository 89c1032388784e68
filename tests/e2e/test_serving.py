"""The whole way: a SavedModel on disk, `ladle serve` on it, and the client in front."""

from __future__ import annotations

import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from e2e.conftest import Digits
from e2e.serving import ServerProcess, serve_in_vain
from fakes import TIMEOUT_S

from ladle.client import Client, FailedPrecondition, InvalidInput, NotFound
from ladle.export import load_data

pytestmark = pytest.mark.e2e


def test_the_client_gets_what_keras_computes(
    trained_digits: Digits, digits_server: ServerProcess
) -> None:
    data = load_data("digits")
    images = data.x_test
    expected = trained_digits.classifier.answers(images, data.preparation)

    with Client(digits_server.address) as client:
        normalised_here = client.predict("digits", images)
        normalised_there = client.predict("digits", images, signature="serving_uint8")

    for prediction in (normalised_here, normalised_there):
        np.testing.assert_allclose(prediction["probabilities"], expected, atol=1e-5)
        np.testing.assert_allclose(prediction["probabilities"].sum(axis=1), 1, atol=1e-5)
        assert (prediction.model, prediction.version) == ("digits", 1)


def test_every_caller_among_many_gets_its_own_rows(digits_server: ServerProcess) -> None:
    from concurrent.futures import ThreadPoolExecutor

    images = load_data("digits").x_test[:96]
    with Client(digits_server.address) as client, ThreadPoolExecutor(32) as pool:
        together = client.predict("digits", images)["probabilities"]
        alone = list(
            pool.map(lambda i: client.predict("digits", images[i : i + 1]), range(len(images)))
        )

    rows = np.concatenate([prediction["probabilities"] for prediction in alone])
    np.testing.assert_allclose(rows, together, atol=1e-5)


def test_what_the_model_says_of_itself_reaches_the_client(digits_server: ServerProcess) -> None:
    with Client(digits_server.address) as client:
        metadata = client.metadata("digits")
        status = client.status("digits")

    assert set(metadata.signatures) >= {"serving_default", "serving_uint8"}
    assert metadata.card is not None
    assert metadata.card.labels == tuple("0123456789")
    assert metadata.card.normalization is not None
    assert metadata.card.normalization.divisor == 16
    assert [version.version for version in status] == [1]


def test_wrong_requests_are_refused_by_cause(digits_server: ServerProcess) -> None:
    images = load_data("digits").x_test[:1]
    with Client(digits_server.address) as client:
        with pytest.raises(NotFound, match="Servable not found"):
            client.predict("nope", images)
        with pytest.raises(NotFound, match="Servable not found"):
            client.predict("digits", images, version=99)
        with pytest.raises(FailedPrecondition, match="nope"):
            client.predict("digits", images, signature="nope")
        with pytest.raises(InvalidInput, match="pixels"):
            client.predict("digits", {"pixels": images})
        with pytest.raises(InvalidInput, match="8, 8"):
            client.predict("digits", images[:, :4].astype(np.float32))


def test_a_new_version_takes_over_while_requests_come(digits: Path, tmp_path: Path) -> None:
    base_path = tmp_path / "digits"
    shutil.copytree(digits / "1", base_path / "1")
    images = load_data("digits").x_test[:1]
    flags = ("--file_system_poll_wait_seconds=0.05",)
    with ServerProcess("digits", base_path, *flags) as server, Client(server.address) as client:
        assert client.predict("digits", images).version == 1
        staged = base_path / "tmp"
        shutil.copytree(digits / "1", staged)
        staged.rename(base_path / "2")

        served = [1]
        while served[-1] == 1:
            served.append(client.predict("digits", images, timeout=TIMEOUT_S).version or 0)
            assert len(served) < 1_000_000

        assert set(served) == {1, 2}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_cleanly(digits: Path, number: signal.Signals) -> None:
    with ServerProcess("digits", digits) as server:
        code, log = server.stop(number)

    assert code == 0
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def others_client(
    shared_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A client of one server on all the models that other programs wrote."""
    models = ("half_plus_two", "counter", "matrix_half_plus_two")
    config_file = tmp_path_factory.mktemp("others") / "models.config"
    listed = "\n".join(
        f'config {{ name: "{name}" model_platform: "tensorflow" '
        f'base_path: "{shared_models / name}" }}'
        for name in models
    )
    config_file.write_text(f"model_config_list {{ {listed} }}")
    flag = f"--model_config_file={config_file}"
    with ServerProcess("unused", shared_models, flag) as server, Client(server.address) as client:
        yield client


def test_models_that_other_programs_wrote_answer(others_client: Client) -> None:
    x = np.array([[1.0], [2.0], [5.0]], np.float32)
    prediction = others_client.predict("half_plus_two", {"x": x})
    np.testing.assert_allclose(prediction["y"], [[2.5], [3.0], [4.5]])
    assert prediction.version == 123


def test_a_stateful_model_without_inputs_answers(others_client: Client) -> None:
    counts = [
        float(others_client.predict("counter", {}, signature=signature)["output"])
        for signature in ("reset_counter", "incr_counter", "incr_counter", "get_counter")
    ]
    assert counts == [0, 1, 2, 2]
    by = others_client.predict(
        "counter", {"delta": np.array(5, np.float32)}, signature="incr_counter_by"
    )
    assert by["output"] == 7


def test_a_model_of_matrices_is_batched_by_its_rows(others_client: Client) -> None:
    x = np.arange(36, dtype=np.float32).reshape(4, 3, 3)
    prediction = others_client.predict("matrix_half_plus_two", {"x": x})
    np.testing.assert_allclose(prediction["y"], x / 2 + 2)


def one_line(said: str) -> str:
    """Return what `ladle serve` says of its end: the last line, and the only one of that kind."""
    assert "Traceback" not in said
    complaints = [line for line in said.splitlines() if line.startswith("ladle serve: ")]
    assert len(complaints) == 1
    return complaints[0]


def test_a_base_path_that_is_missing_ends_the_start_in_one_line(tmp_path: Path) -> None:
    code, said = serve_in_vain("--port=auto", f"--model_base_path={tmp_path / 'nope'}")

    assert code == 1
    assert "expected a folder of numbered versions" in one_line(said)
    assert str(tmp_path / "nope") in said


def test_a_base_path_without_versions_ends_the_start_in_one_line(tmp_path: Path) -> None:
    code, said = serve_in_vain("--port=auto", f"--model_base_path={tmp_path}")

    assert code == 1
    assert "expected a folder whose name is a number" in one_line(said)


@pytest.mark.parametrize(
    "content", [None, b"", b"not a SavedModel"], ids=["none", "empty", "garbage"]
)
def test_a_corrupt_saved_model_ends_the_start_in_one_line(
    tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "1").mkdir()
    if content is not None:
        (tmp_path / "1" / "saved_model.pb").write_bytes(content)

    code, said = serve_in_vain("--port=auto", f"--model_base_path={tmp_path}")

    assert code == 1
    assert "did not load" in one_line(said)
    assert str(tmp_path / "1") in one_line(said)


def test_a_port_in_use_ends_the_start_in_one_line(digits: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = serve_in_vain(f"--port={port}", f"--model_base_path={digits}")

    assert code == 1
    assert f"can't listen on port {port}: Address already in use" in one_line(said)


def test_flags_that_contradict_each_other_are_explained(tmp_path: Path) -> None:
    code, said = serve_in_vain("--port=99999", f"--model_base_path={tmp_path}")
    assert (code, one_line(said)) == (
        2,
        "ladle serve: --port: expected 0 to 65535 or auto, got 99999",
    )
