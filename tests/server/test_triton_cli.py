"""tritonserver's command line, as arguments of Config."""

from __future__ import annotations

import pytest

from ladle.server.config import Config
from ladle.server.triton_cli import WITHOUT_EFFECT, settings


def config(*argv: str) -> Config:
    return Config(**settings(["--model-repository=/models", *argv]))


def test_the_defaults_are_tritons() -> None:
    given = config()
    assert (given.rest_api_port, given.port) == (8000, 8001)
    assert given.model_repository == "/models"
    assert given.model_control_mode == "none"
    assert given.file_system_poll_wait_seconds == 0
    assert given.strict_readiness is True
    assert given.loaded_models is None


def test_every_flag_has_its_meaning() -> None:
    given = config(
        "--http-port=0",
        "--grpc-port=9001",
        "--model-control-mode=explicit",
        "--load-model=a",
        "--load-model=b",
        "--strict-readiness=false",
        "--exit-timeout-secs=5",
        "--http-address=0.0.0.0",
    )
    assert (given.rest_api_port, given.port) == (0, 9001)
    assert given.loaded_models == frozenset({"a", "b"})
    assert given.strict_readiness is False
    assert given.drain_grace_seconds == 5
    polled = config("--model-control-mode=poll", "--repository-poll-secs=3", "--allow-http=false")
    assert polled.file_system_poll_wait_seconds == 3
    assert polled.rest_api_port == 0
    assert config("--model-control-mode=explicit", "--load-model=*").loaded_models is None
    assert config("--model-control-mode=explicit").loaded_models == frozenset()


def test_flags_of_ladle_serve_may_follow() -> None:
    given = config("--access_log=-", "--port=7001")
    assert given.access_log == "-"
    assert given.port == 7001


@pytest.mark.parametrize("name", [*WITHOUT_EFFECT])
def test_what_does_nothing_says_why(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config(f"--{name}=1")
    assert f"--{name} does nothing: {WITHOUT_EFFECT[name]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--http-address=127.0.0.1"], "--http-address: a port is opened on all interfaces"),
        (["--model-repository=/more"], "--model-repository: expected one folder, got several"),
        (["--model-control-mode=maybe"], "--model-control-mode: invalid choice: 'maybe'"),
        (["--grpc-use-ssl=1"], "unrecognized arguments: --grpc-use-ssl=1"),
        (["--http-port=x"], "--http-port: expected a number or auto, got 'x'"),
        (["--grpc-port=70000"], "--grpc-port: expected 0 to 65535 or auto, got 70000"),
        (["--repository-poll-secs=-1"], "--repository-poll-secs: expected 0 to 31536000 seconds"),
        (["--exit-timeout-secs=nan"], "--exit-timeout-secs: expected 0 to 31536000 seconds"),
    ],
)
def test_a_mistake_is_one_line(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        config(*argv)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.startswith("ladle triton: ")
    assert told.count("\n") == 1


def test_a_repository_has_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        settings(["--model-repository="])
    assert "--model-repository: expected a folder" in capsys.readouterr().err


def test_models_to_load_need_the_mode_for_it() -> None:
    with pytest.raises(ValueError, match="--load_model needs --model_control_mode=explicit"):
        config("--load-model=a")


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_base_path": "/m", "model_repository": "/r"},
        {"model_config_file": "/m", "model_repository": "/r"},
        {"model_base_path": "/m", "model_control_mode": "poll"},
        {"model_repository": "s3://bucket/models"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="--model_repository"):
        Config(**wrong)  # type: ignore[arg-type]
