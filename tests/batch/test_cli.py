"""What `ladle predict` makes of its arguments."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from batch.conftest import Batch

from ladle.batch import cli

SERVER = ["--server", "h:1", "--model", "m"]
OUT = [*SERVER, "--input", "x", "--output", "o"]


def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    told = capsys.readouterr().out
    for part in (
        "--map images='pixel*':uint8",
        "--plot chart.png",
        "Exit status",
        "--restart",
        "--task 0/8",
    ):
        assert part in told
    assert max(map(len, told.splitlines())) <= 110


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --server, --model, --input"),
        ([*SERVER, "--input", "x", "--map", "x"], "--map: expected TENSOR=COLUMN"),
        ([*SERVER, "--input", "x", "--restart"], "--restart: there is no --output"),
        ([*SERVER, "--input", "x", "--output", "o", "--plot", "p"], "--plot: a chart is for"),
        ([*SERVER, "--input", "x", "--shard-rows", "0"], "--shard-rows: expected 1 or more"),
        ([*SERVER, "--input", "x", "--timeout", "nan"], "--timeout: expected seconds"),
        ([*SERVER, "--input", "x", "--max-failed", "-1"], "--max-failed"),
        (["--server", "a,,b", "--model", "m", "--input", "x"], "names with commas between"),
        ([*SERVER, "--input", "x", "--key", "k"], "--certificate and --key: expected both"),
        ([*SERVER, "--input", "x", "--task", "0/2"], "--task: there is no --output to go on with"),
        (
            [*OUT, "--task", "2/2"],
            "--task: expected I/N with I from 0 to N-1, auto, or auto/N, got",
        ),
        ([*OUT, "--task", "0/2", "--restart"], "--restart: one of many workers can't begin anew"),
        ([*OUT, "--task", "0/2", "--allow-changed-input"], "--allow-changed-input: one of many"),
        (
            ["--check", "o", "--model", "m"],
            "--model: --check takes a place and --json, and nothing",
        ),
        ([*SERVER, "--input", "x", "--tls", "--no-tls"], "--no-tls: another option asks for TLS"),
    ],
)
def test_wrong_usage_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("server", ["models.prod:8500", "localhost:8500,10.0.0.7:8500"])
def test_a_token_is_not_sent_in_the_clear_unasked(
    server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--server", server, "--model", "m", "--input", "/nowhere", "--token-file", "t"]
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    address = server.rpartition(",")[2]
    assert f"without TLS anybody on the way to {address} can read the token" in told
    assert len(told.splitlines()) == 1
    for consent in ("--no-tls", "--tls", "--server-name=models"):
        assert cli.main([*arguments, consent]) == 1
        assert "/nowhere: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("server", ["localhost:8500", "unix:/run/ladle.sock", "127.0.0.1:1"])
def test_a_token_may_go_to_this_machine(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--server", server, "--model", "m", "--input", "/nowhere", "--token-file", "t"]
    assert cli.main(arguments) == 1
    assert "/nowhere: no such file" in capsys.readouterr().err


def test_an_input_that_is_missing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*SERVER, "--input", "/nowhere/x.npy", "--output", "/nowhere/out"]) == 1
    assert capsys.readouterr().err == ("ladle predict: /nowhere/x.npy: no such file or folder\n")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom ladle.cli import main\n"
        "try:\n    main(['predict', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'grpc', 'pyarrow', 'google.protobuf', 'ladle.client'} & {*sys.modules}\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_npy_to_json_lines_takes_no_pyarrow() -> None:
    code = (
        "import sys\nsys.modules['pyarrow'] = None\n"
        "import ladle.batch.execute, ladle.batch.output.single, ladle.batch.readers.npy\n"
        "import ladle.batch.readers.jsonl, ladle.batch.writers.jsonl, ladle.batch.writers.npy\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_workers_of_one_job(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    batch.poison(700)
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    arguments = ("--shard-rows", 300, "--output-format", "jsonl", "--task", "auto/2")
    assert batch.run(*arguments, "--json") == 3
    told = json.loads(batch.printed)
    expected = {
        "rows": 1000,
        "failed": 1,
        "tasks": 4,
        "tasks_now": 4,
        "shards": 4,
        "rows_now": 1000,
    }
    assert expected.items() <= told.items()
    assert batch.run(*arguments) == 3
    assert "4 parts, by version 1; 0 of 4 tasks here; all was done before" in batch.printed
    assert cli.main(["--check", str(batch.out), "--json"]) == 0
    told = json.loads(batch.printed)
    assert (told["is_complete"], told["missing"], told["failed"]) == (True, [], 1)
    (batch.out / "_manifest.json").unlink()
    (batch.out / "_tasks" / "000002.json").unlink()
    assert cli.main(["--check", str(batch.out)]) == 1
    assert "3 of 4 tasks done; missing: 2\n" in batch.printed


def test_a_place_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--check", "hdfs://x"]) == 1
    assert "--check: expected s3://BUCKET/PATH" in capsys.readouterr().err
    assert cli.main(["--check", "/nowhere/at/all"]) == 1
    assert "there is no output of ladle predict --task" in capsys.readouterr().err
