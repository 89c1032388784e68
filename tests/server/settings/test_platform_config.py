from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ladle.server import Config
from ladle.server.core.errors import InvalidArgument
from ladle.server.settings.platform_config import PlatformConfig, parse
from ladle.server.wiring.startup import StartupError, batching_config, with_platform

TYPE = "type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig"


def of(legacy_config: str, platform: str = "tensorflow", type_url: str = TYPE) -> str:
    return (
        f'platform_configs {{ key: "{platform}" value {{ source_adapter_config {{ [{type_url}] {{ '
        f"legacy_config {{ {legacy_config} }} }} }} }} }}"
    )


def test_fields_with_flags_set_these() -> None:
    platform = parse(
        of(
            'saved_model_tags: "serve" saved_model_tags: "gpu" enable_model_warmup: true '
            "prefer_tflite_model: true num_tflite_pools: 3 num_tflite_interpreters_per_pool: 2 "
            'mixed_precision: "bfloat16" enable_per_model_batching_params: true '
            "model_warmup_options { num_request_iterations { value: 4 } }"
        )
    )
    assert platform.flags == {
        "saved_model_tags": "serve,gpu",
        "enable_model_warmup": True,
        "prefer_tflite_model": True,
        "num_tflite_pools": 3,
        "num_tflite_interpreters_per_pool": 2,
        "mixed_precision": "bfloat16",
        "enable_per_model_batching_parameters": True,
        "num_request_iterations_for_warmup": 4,
    }
    assert platform.without_effect == ()


def test_sessions_and_batches_are_as_it_says() -> None:
    platform = parse(
        of(
            "session_config { intra_op_parallelism_threads: 3 } "
            "batching_parameters { max_batch_size { value: 7 } }"
        )
    )
    assert platform.session is not None
    assert platform.session.intra_op_parallelism_threads == 3
    assert platform.batching is not None
    assert platform.batching.max_batch_size == 7


def test_what_means_nothing_here_is_named() -> None:
    platform = parse(
        of(
            "enable_session_metadata: true experimental_transient_ram_bytes_during_load: 5 "
            "model_warmup_options { num_model_warmup_threads { value: 2 } }"
        )
    )
    assert platform.without_effect == (
        "experimental_transient_ram_bytes_during_load",
        "model_warmup_options.num_model_warmup_threads",
        "enable_session_metadata",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("platform_configs {", "expected a PlatformConfigMap in text format"),
        ("", r"expected a platform 'tensorflow', got \[\]"),
        (of("", platform="pytorch"), r"expected a platform 'tensorflow', got \['pytorch'\]"),
        ('platform_configs { key: "tensorflow" }', "Config, got none"),
        (of("batching_parameters { max_batch_size { value: -1 } }"), "max_batch_size"),
    ],
)
def test_a_file_of_no_use_says_why(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        parse(text)


def config(tmp_path: Path, text: str, **settings: str) -> Config:
    file = tmp_path / "platform.config"
    file.write_text(text)
    return Config(model_base_path="/m", platform_config_file=str(file), **settings)  # type: ignore[arg-type]


def test_the_file_counts_before_flags(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = of(
        'saved_model_tags: "other" enable_session_metadata: true '
        "batching_parameters { max_batch_size { value: 7 } }"
    )
    with caplog.at_level(logging.WARNING):
        changed, platform = with_platform(config(tmp_path, text, saved_model_tags="serve"))
    assert changed.tags == ("other",)
    assert caplog.messages == ["--platform_config_file: enable_session_metadata does nothing here"]
    options = batching_config(changed, platform).options
    assert options is not None
    assert options.max_batch_size == 7


def test_without_the_file_the_flags_count() -> None:
    given = Config(model_base_path="/m")
    assert with_platform(given) == (given, PlatformConfig())


@pytest.mark.parametrize(
    ("legacy", "settings", "says"),
    [
        ('mixed_precision: "int8"', {}, "--mixed_precision: expected one of"),
        (
            "session_config {}",
            {"tensorflow_session_config_file": "s"},
            "session_config: expected it or --tensorflow_session_config_file, got both",
        ),
        (
            "batching_parameters {}",
            {"batching_parameters_file": "b"},
            "batching_parameters: expected it or --batching_parameters_file, got both",
        ),
    ],
)
def test_what_contradicts_a_flag_ends_the_start(
    tmp_path: Path, legacy: str, settings: dict[str, str], says: str
) -> None:
    with pytest.raises(StartupError, match=f"--platform_config_file.*{says}"):
        with_platform(config(tmp_path, of(legacy), **settings))


def test_a_file_that_is_not_there_ends_the_start() -> None:
    given = Config(model_base_path="/m", platform_config_file="nowhere.config")
    with pytest.raises(StartupError, match=r"nowhere\.config: can't be read: No such file"):
        with_platform(given)
