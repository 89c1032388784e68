"""The command's arguments and errors, here; test_export_command.py drives it for real."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from ladle.export import CheckError, PublishError, Requirements, TrainingOptions, cli
from ladle.export.cli import main
from ladle.export.quiet import quiet_import


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what the command sets for its process."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: BASE_PATH"),
        ("models/m", "--data: expected what to train on"),
        ("models/m --data digits --recipe vgg", "argument --recipe: invalid choice: 'vgg'"),
        ("models/m --data digits --epochs many", "argument --epochs: invalid int value: 'many'"),
        ("models/m --data digits --loss-weight a=", "expected a number, or NAME=NUMBER,..."),
        ("models/m --data digits --epochs 0", "epochs: expected at least 1, got 0"),
        ("models/m --data digits --batch-size -1", "batch size: expected at least 1, got -1"),
        ("models/m --data digits --seed -1", "seed: expected 0 to 4294967295, got -1"),
        ("models/m --data digits --quiet --verbose", "not allowed with argument --quiet"),
        ("models/m --data digits --resize 28", "expected HEIGHTxWIDTH, such as 28x28, got '28'"),
        ("models/m --data digits --export-only", "--export-only: expected a --model to export"),
        ("models/m --data digits --validation test", "argument --validation: invalid choice"),
        ("models/m --data digits --min-accuracy 2", "min accuracy: expected 0 to 1, got 2"),
        ("models/m --data digits --version v1", "expected next, timestamp or a number, got 'v1'"),
        ("models/m --data digits --version -1", "expected next, timestamp or a number, got '-1'"),
        ("hdfs://bucket/m --data digits", "expected s3://BUCKET/PATH, gs://BUCKET/PATH or"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("ladle export: ")
    assert message in line
    assert line.endswith("; see ladle export --help\n")
    assert line.count("\n") == 1


def test_help_shows_an_example_what_it_writes_and_every_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for part in ("ladle export models/digits --data digits", "models/digits/1/", "ladle.json"):
        assert part in text
    for option in ("--data", "--recipe", "--epochs", "--batch-size", "--seed", "--json", "--quiet"):
        assert option in text


@pytest.mark.parametrize("data", ["missing.npz", "cifar"])
def test_data_that_is_not_there_is_one_line_and_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    assert main([str(tmp_path / "model"), "--data", data]) == 1
    line = capsys.readouterr().err
    assert line.startswith("ladle export: ")
    assert data in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_base_path_that_cannot_be_is_told_before_tensorflow_is_imported(
    tmp_path: Path, npz: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ladle.export.pipeline", None)  # importing it now raises
    assert main([str(npz / "model"), "--data", str(npz)]) == 1
    assert capsys.readouterr().err == (
        f"ladle export: {npz}/model: cannot publish: Not a directory\n"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PublishError("models/m: no\nspace"), "models/m: no space"),
        (CheckError("signatures", "one is missing"), "check signatures failed: one is missing"),
        (MemoryError("3 TiB"), "out of memory: 3 TiB"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_an_export_that_fails_is_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    line: str,
) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(cli, "_export", fail)
    assert main(["models/m", "--data", "digits"]) == 1
    assert capsys.readouterr().err == f"ladle export: {line}\n"


def test_options_reach_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[TrainingOptions] = []
    required: list[Requirements] = []

    def record(args: Any, options: TrainingOptions, requirements: Requirements) -> None:
        given.append(options)
        required.append(requirements)
        raise PublishError("no more is wanted")

    monkeypatch.setattr(cli, "_export", record)
    training = "--epochs 3 --batch-size 16 --seed 9 --no-shuffle --run-eagerly --metrics a"
    main(["m", "--data", "digits", *training.split(), "--metrics=b", "--learning-rate=0.5"])
    main(["m", "--data", "digits"])
    checks = "--min-accuracy=0.9 --max-regression=0.01 --allow-op=ReadFile --allow-op PyFunc"
    main(["m", "--data", "digits", *checks.split()])
    assert given[0] == TrainingOptions(
        epochs=3,
        batch_size=16,
        seed=9,
        shuffle=False,
        run_eagerly=True,
        metrics=("a", "b"),
        learning_rate=0.5,
    )
    assert given[1:] == [TrainingOptions()] * 2
    assert required == [Requirements()] * 2 + [
        Requirements(min_accuracy=0.9, max_regression=0.01, allow_op=("ReadFile", "PyFunc"))
    ]


def test_stderr_comes_back_after_a_quiet_import(capfd: pytest.CaptureFixture[str]) -> None:
    def import_noisily() -> None:
        with quiet_import():
            os.write(2, b"drivers not found\n")
            raise ImportError

    with pytest.raises(ImportError):
        import_noisily()
    os.write(2, b"a word of ours\n")
    assert capfd.readouterr().err == "a word of ours\n"
