from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ladle.server.config import Config
from ladle.server.flags import settings

# tensorflow_model_server's flags, each with its default: None where that hangs on the machine.
UPSTREAM: dict[str, Any] = {
    "port": 8500,
    "grpc_socket_path": "",
    "rest_api_port": 0,
    "rest_api_num_threads": None,
    "rest_api_timeout_in_ms": 30000,
    "rest_api_enable_cors_support": False,
    "enable_batching": False,
    "allow_version_labels_for_unavailable_models": False,
    "batching_parameters_file": "",
    "enable_per_model_batching_parameters": False,
    "model_config_file": "",
    "model_config_file_poll_wait_seconds": 0,
    "model_name": "default",
    "model_base_path": "",
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60000000,
    "file_system_poll_wait_seconds": 1,
    "flush_filesystem_caches": True,
    "tensorflow_session_parallelism": 0,
    "tensorflow_session_config_file": "",
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "use_alts_credentials": False,
    "ssl_config_file": "",
    "platform_config_file": "",
    "per_process_gpu_memory_fraction": 0.0,
    "saved_model_tags": "serve",
    "grpc_channel_arguments": "",
    "grpc_max_threads": None,
    "enable_model_warmup": True,
    "num_request_iterations_for_warmup": 0,
    "monitoring_config_file": "",
    "remove_unused_fields_from_bundle_metagraph": True,
    "prefer_tflite_model": False,
    "num_tflite_pools": None,
    "num_tflite_interpreters_per_pool": 1,
    "enable_signature_method_name_check": False,
    "xla_cpu_compilation_enabled": False,
    "xla_gpu_compilation_enabled": False,
    "enable_profiler": True,
    "thread_pool_factory_config_file": "",
    "mixed_precision": "",
    "skip_initialize_tpu": False,
    "enable_grpc_healthcheck_service": False,
    "enable_serialization_as_tensor_content": False,
}


def parse(*arguments: str) -> Config:
    return Config(**settings(["--model_base_path=/m", *arguments]))


@pytest.mark.parametrize("name", UPSTREAM)
def test_upstreams_flags_are_all_there_with_their_defaults(name: str) -> None:
    value = getattr(Config(model_base_path="/m"), name)
    if name == "model_base_path":
        return
    if name == "enable_batching":  # the one default that differs: neither on nor off
        assert value is None
        return
    if UPSTREAM[name] is None:
        assert value >= 1
    else:
        assert (type(value) is bool) == (type(UPSTREAM[name]) is bool)
        assert value == UPSTREAM[name]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--prefer_tflite_model"], True),
        (["--prefer_tflite_model=true"], True),
        (["--prefer_tflite_model=True"], True),
        (["--prefer_tflite_model", "true"], True),
        (["--prefer_tflite_model=false"], False),
        (["--prefer_tflite_model=0"], False),
        (["--prefer_tflite_model", "--port=1"], True),
    ],
)
def test_a_switch_has_three_spellings(arguments: list[str], expected: bool) -> None:
    assert parse(*arguments).prefer_tflite_model is expected


def test_values_come_with_an_equals_sign_or_after_a_space() -> None:
    assert parse("--port=1", "--model_name", "m").port == 1
    assert parse("--port", "auto").port is None


@pytest.mark.parametrize("arguments", [["--prot=1"], ["--mod=m"], ["--port=x"], ["stray"]])
def test_what_is_no_flag_or_no_value_is_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        parse(*arguments)
    assert exit_info.value.code == 2
    assert arguments[0].split("=")[0] in capsys.readouterr().err


def test_flags_that_do_nothing_are_named_only_when_they_ask_for_something() -> None:
    assert parse("--skip_initialize_tpu=false", "--enable_profiler").without_effect == {}
    ignored = parse("--skip_initialize_tpu", "--num_unload_threads=2").without_effect
    assert ignored == {
        "num_unload_threads": "each version unloads in a thread of its own",
        "skip_initialize_tpu": "there is no TPU support",
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_base_path": ""}, "--model_base_path: expected the folder"),
        ({"port": 70000}, "--port: expected 0 to 65535 or auto, got 70000"),
        ({"port": 0}, "--grpc_socket_path"),
        ({"rest_api_port": -1}, "--rest_api_port: expected 0 to 65535 or auto, got -1"),
        ({"rest_api_port": 8500}, "expected another port than --port, got 8500"),
        ({"rest_api_timeout_in_ms": 0}, "--rest_api_timeout_in_ms: expected 1 or more, got 0"),
        ({"grpc_max_threads": 0}, "--grpc_max_threads: expected 1 or more, got 0"),
        ({"aspired_version_policy": "none"}, "expected one of 'availability_preserving', "),
        ({"mixed_precision": "float16"}, "--mixed_precision: expected one of '', 'bfloat16'"),
        ({"enable_batching": False, "batching_parameters_file": "f"}, "needs --enable_batching"),
        (
            {"drain_grace_seconds": float("inf")},
            "--drain_grace_seconds: expected a number up to 31536000, got inf",
        ),
        (
            {"file_system_poll_wait_seconds": float("nan")},
            "--file_system_poll_wait_seconds: expected a number up to 31536000, got nan",
        ),
        (
            {"model_config_file_poll_wait_seconds": 1e10},
            "--model_config_file_poll_wait_seconds: expected a number up to 31536000, got 1",
        ),
        (
            {"model_base_path": "hdfs://bucket/m"},
            "--model_base_path: expected s3://BUCKET/PATH, gs://BUCKET/PATH or "
            "az://CONTAINER/PATH, got hdfs://",
        ),
        ({"grpc_channel_arguments": "a"}, "expected name=value, got 'a'"),
        ({"model_name": ""}, "--model_name: expected a name, text in UTF-8, got ''"),
        ({"model_name": "m\udcff"}, "--model_name: expected a name, text in UTF-8, got 'm\\udcff'"),
        (
            {"tensorflow_session_parallelism": 1, "tensorflow_intra_op_parallelism": 1},
            "the one or the others",
        ),
    ],
)
def test_values_out_of_range_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Config(**{"model_base_path": "/m"} | fields)


def test_channel_arguments_are_numbers_where_they_can_be() -> None:
    config = parse("--grpc_channel_arguments=grpc.max_connection_age_ms=30000,grpc.x=a")
    assert config.channel_arguments == (("grpc.max_connection_age_ms", 30000), ("grpc.x", "a"))


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--port=x", "argument --port: expected a number or auto, got 'x'"),
        ("--nope", "unrecognized arguments: --nope"),
        ("--enable_batching=maybe", "expected true or false, got 'maybe'"),
    ],
)
def test_a_flag_that_can_not_be_read_is_one_line(
    flag: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        settings([flag])

    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("ladle serve: ")
    assert says in said
    assert said.count("\n") == 1


def test_a_mistyped_flag_is_told_with_the_one_that_was_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        settings(["--model_bas_path=/m"])
    assert capsys.readouterr().err.endswith("; did you mean --model_base_path?\n")


def test_a_folder_stands_for_the_flags_that_serve_it(tmp_path: Path) -> None:
    (tmp_path / "mine" / "1").mkdir(parents=True)
    folder = str(tmp_path / "mine")
    served = {"model_name": "mine", "model_base_path": folder, "rest_api_port": 8501}
    assert settings([folder]) == served
    assert Config(**settings([folder])).port == 8500
    assert settings([f"{folder}/"])["model_name"] == "mine"
    (tmp_path / "empty").mkdir()
    assert settings([str(tmp_path / "empty")])["model_name"] == "empty"  # a version may come


def test_the_folder_that_is_worked_in_has_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    assert settings(["."])["model_name"] == "mine"
    monkeypatch.chdir(tmp_path / "mine" / "1")
    assert settings([".."])["model_name"] == "mine"


def test_flags_beside_a_folder_count(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    given = ["--rest_api_port=0", "--model_name=m", str(tmp_path), "--port=auto"]
    assert settings(given) == {
        "model_name": "m",
        "model_base_path": str(tmp_path),
        "port": None,
        "rest_api_port": 0,
    }


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("nowhere", "expected a folder with numbered versions, got nowhere: there is no such"),
        ("model/1", "HERE/model/1 is one version; expected the folder that holds it, HERE/model;"),
        ("saved", "HERE/saved is a SavedModel itself; expected a folder with numbered versions: m"),
        ("hdfs://bucket/m", "expected s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH"),
        (
            ".",
            ". holds models, and no versions: expected one of m0, m1, m2 and 2 more; "
            "--model_config_file serves several",
        ),
    ],
)
def test_a_folder_that_can_not_be_served_says_what_to_do(
    folder: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(4):
        (tmp_path / f"m{number}" / "1").mkdir(parents=True)
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    (tmp_path / "model" / "1" / "saved_model.pb").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        settings([folder])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(f"ladle serve: {says}".replace("HERE", str(tmp_path)))
    assert said.count("\n") == 1


def test_help_begins_with_what_most_need_and_has_every_flag_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        settings(["--help"])
    shown = capsys.readouterr().out
    titles = re.findall(r"^(\w.+):$", shown, re.MULTILINE)
    assert titles[2:4] == ["what most servers need", "where to listen"]
    assert titles[-2:] == ["without effect", "example"]
    flags = re.findall(r"^  --(\w+)", shown, re.MULTILINE)
    assert sorted(flags) == sorted(["version", *Config.__dataclass_fields__])
    assert "--skip_initialize_tpu" in shown.partition("without effect:")[2]


def test_the_version_is_told_with_the_transport_that_would_serve(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        settings(["--transport=grpcio", "--version"])
    assert ended.value.code == 0
    assert re.fullmatch(
        r"ladle \S+, transport grpcio: --transport=grpcio\n", capsys.readouterr().out
    )


def test_a_url_that_may_hold_a_secret_is_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    url = "s3://KEY:SECRET@bucket/m"
    for arguments in ([url], [url, f"--model_base_path={url}"]):
        with pytest.raises(SystemExit):
            settings(arguments)
        assert "SECRET" not in capsys.readouterr().err
    for name in ("model_base_path", "model_config_file", "model_repository"):
        with pytest.raises(ValueError, match=f"--{name}") as refused:
            Config(**settings([f"--{name}={url}"]))
        assert "SECRET" not in str(refused.value)


def test_only_flags_that_are_given_need_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be gone."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    config = Config(model_base_path=str(tmp_path))
    assert config.base_path == tmp_path
    assert not Path(str(config.root)).is_absolute()
    assert Config(model_root=str(tmp_path)).root == tmp_path
