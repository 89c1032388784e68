"""What counts of a config.pbtxt."""

from __future__ import annotations

from pathlib import Path

import pytest

from ladle.protos.files.versions import FOLDER_NAME
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.errors import InvalidArgument
from ladle.server.core.machine.cpus import cpus
from ladle.server.core.sources.version_policy import All, Latest, Specific
from ladle.server.settings.batching_parameters import BatchingConfig, BatchingLoader
from ladle.server.settings.triton_model import (
    CONFIG_FILE,
    TritonModel,
    files_named,
    parse,
    read,
)

WHOLE = """
name: "m"
platform: "tensorflow_savedmodel"
max_batch_size: 64
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
version_policy: { specific: { versions: [ 1, 3 ] } }
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0 ] } ]
dynamic_batching {
  preferred_batch_size: [ 8, 32 ]
  max_queue_delay_microseconds: 500
  preserve_ordering: true
}
optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" } ] } }
parameters: { key: "TF_SIGNATURE_DEF" value: { string_value: "other" } }
model_warmup [ {
  name: "ones" batch_size: 4 count: 3
  inputs { key: "x" value: { data_type: TYPE_FP32 dims: [ 2 ] random_data: true } }
} ]
"""


def test_what_counts_of_a_whole_one() -> None:
    model = parse(WHOLE, "m")
    assert model.max_batch_size == 64
    assert model.has_dynamic_batching
    assert model.preferred_batch_sizes == (8, 32)
    assert model.max_queue_delay_s == 0.0005
    assert model.instances == 3
    assert model.policy == Specific(frozenset({1, 3}))
    assert model.labels_files == {"y": "labels.txt"}
    (warmup,) = model.warmups
    assert (warmup.name, warmup.rounds) == ("ones", 3)
    (given,) = warmup.inputs
    assert (given.name, given.datatype.name, given.shape) == ("x", "FP32", (4, 2))
    assert (given.source, given.is_file) == ("random", False)
    assert model.without_effect == (
        "optimization",
        "dynamic_batching.preserve_ordering",
    )


def test_batches_have_the_largest_preferred_size_at_most() -> None:
    assert parse(WHOLE, "m").batch_options() == BatchOptions(
        max_batch_size=64,
        batch_timeout_s=0.0005,
        num_batch_threads=3,
        refuse_larger=True,
        enable_large_batch_splitting=True,
        max_execution_batch_size=32,
    )
    plain = parse("max_batch_size: 8 dynamic_batching { preferred_batch_size: 8 }", "m")
    assert plain.batch_options() == BatchOptions(
        max_batch_size=8, num_batch_threads=cpus(), refuse_larger=True
    )


def test_an_empty_one_says_nothing() -> None:
    model = parse("", "m")
    assert model == TritonModel()
    assert model.batch_options() == BatchOptions(num_batch_threads=cpus())


def test_the_files_that_it_names_are_known_without_a_folder() -> None:
    text = """
    output { name: "y" label_filename: "a" }
    model_warmup { inputs { key: "x" value {
      data_type: TYPE_FP32 dims: 1 input_data_file: "b" } } }
    """
    assert sorted(files_named(text.encode(), "m")) == ["a", "warmup/b"]
    assert files_named(b"nonsense", "m") == ()
    assert files_named(b"\xff", "m") == ()
    assert files_named(b'name: "n" ' + text.encode(), "m") == ()


def test_a_copy_has_the_name_of_the_folder_that_it_was_copied_from(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text('name: "digits" max_batch_size: 3')
    with pytest.raises(InvalidArgument, match="expected the name of the folder"):
        read(tmp_path)
    (tmp_path / FOLDER_NAME).write_text("digits")
    described = read(tmp_path)
    assert described is not None
    assert described.max_batch_size == 3


def test_each_output_has_its_own_file_of_labels() -> None:
    text = 'output { name: "y" label_filename: "a" } output { name: "z" label_filename: "b" }'
    model = parse(text + ' output { name: "w" }', "m")
    assert model.labels_files == {"y": "a", "z": "b"}
    assert model.without_effect == ()


def test_the_signature_of_requests_that_name_none_is_a_parameter() -> None:
    def parameter(key: str, value: str) -> str:
        return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'

    model = parse(parameter("TF_SIGNATURE_DEF", "a") + parameter("TF_GRAPH_TAG", "b"), "m")
    assert model.signature == "a"
    assert model.without_effect == ("parameters TF_GRAPH_TAG",)
    assert parse('parameters { key: "TF_SIGNATURE_DEF" }', "m").signature == ""


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("version_policy: { all { } }", All()),
        ("version_policy { latest { num_versions: 2 } }", Latest(2)),
        ("version_policy { latest { } }", Latest(1)),
        ("version_policy { }", None),
    ],
)
def test_version_policies(text: str, policy: object) -> None:
    assert parse(text, "m").policy == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name: "n"', 'name: expected the name of the folder, "m", got "n"'),
        ('backend: "onnxruntime"', 'backend: expected "tensorflow", got "onnxruntime"'),
        ('platform: "tensorflow_graphdef"', 'platform: expected "tensorflow_savedmodel", got'),
        ("max_batch_size: -1", "max_batch_size: expected 0 or more, got -1"),
        ("max_batch_size: 0 dynamic_batching { }", "expected a max_batch_size of 1 or more"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }",
            "preferred_batch_size: expected at most max_batch_size, 4, got 8",
        ),
        ("version_policy { latest { num_versions: 0 } }", "num_versions: expected 1 or more"),
        ("version_policy: 1", "version_policy: expected { ... }, got a value"),
        ('output { label_filename: "../../etc/passwd" }', "expected a file in the model's own"),
        ('model_warmup { inputs { key: "x" } }', 'input "x": expected a value'),
        (
            'model_warmup { name: "w" inputs { key: "x" value { data_type: TYPE_FP8 } } }',
            'model_warmup "w": input "x": data_type: expected a TYPE_..., got "FP8"',
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 9 } } }',
            "expected zero_data, random_data or an input_data_file",
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 999999999 '
            "zero_data: true } } }",
            "bytes, got more",
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 '
            "dims: [ 0, 999999999, 999999999, 999999999 ] zero_data: true } } }",
            "bytes, got more",
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 '
            f"dims: [ {', '.join(['1'] * 99)} ] zero_data: true }} }} }}",
            "dimensions, got 99",
        ),
        (
            'model_warmup { inputs { key: "x" value { data_type: TYPE_FP32 dims: 1 '
            'input_data_file: "/etc/passwd" } } }',
            "expected a file in the model's own folder",
        ),
    ],
)
def test_what_is_wrong_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text, "m")
    assert message in caught.value.message


def test_a_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    (tmp_path / CONFIG_FILE).write_text("max_batch_size: many")
    with pytest.raises(InvalidArgument, match=r"config.pbtxt: max_batch_size: expected a whole"):
        read(tmp_path)


def test_a_folder_that_can_not_be_looked_into_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(InvalidArgument, match=r"config.pbtxt: can't be read: Permission denied"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "enabled", "said_by", "most"),
    [
        ("max_batch_size: 8", None, "", 8),
        ("max_batch_size: 8 dynamic_batching { }", None, "dynamic_batching in config.pbtxt", 8),
        ("max_batch_size: 8", True, "--enable_batching", 8),
        ("max_batch_size: 0", None, "max_batch_size: 0 in config.pbtxt", None),
        ("max_batch_size: 8 dynamic_batching { }", False, "--enable_batching=false", None),
        ("", None, "", 1000),
    ],
)
def test_it_decides_on_batches_where_no_flag_does(
    tmp_path: Path, text: str, enabled: bool | None, said_by: str, most: int | None
) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    loader = BatchingLoader(lambda servable_id, path: None, BatchingConfig(enabled=enabled))  # type: ignore[arg-type, return-value]
    decision = loader.decide("m", tmp_path / "1")
    assert decision.said_by == said_by
    assert (decision.options and decision.options.max_batch_size) == most
