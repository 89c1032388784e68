from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ladle.bench.cli import main
from ladle.client import Overloaded
from ladle.client.testing import FunctionModel, FunctionServer

SHORT = ("--duration", "0.2")


class Sometimes:
    """Fails every third request."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        if self.count % 3 == 0:
            raise Overloaded("the queue\nis full")
        return {"y": inputs["x"]}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    signature: Any = {"inputs": {"x": ("float32", (-1, 2))}, "outputs": {"y": ("float32", (-1, 2))}}
    models = {
        "m": FunctionModel(lambda inputs: {"y": inputs["x"]}, **signature),
        "sometimes": FunctionModel(Sometimes(), **signature),
    }
    with FunctionServer(models) as server:
        yield server.address


def test_a_table_says_how_many_were_answered_and_how_fast(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([address, "--model", "m", "--rows", "3", "--concurrency", "2", *SHORT]) == 0
    told = capsys.readouterr().out
    assert told.startswith(
        f'{address}: model "m" version 1 "serving_default", x float32 [3, 2]; 2 in'
    )
    for name in ("requests/s", "rows/s", "p50 (ms)", "p90 (ms)", "p99 (ms)", "errors"):
        assert f"\n{name}" in told


def test_as_json_and_a_chart_at_a_rate(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 2), np.float32))
    chart = tmp_path / "chart.svg"
    status = main(
        [
            *(address, "--model", "m", "--rate", "50", "--rows", "2", "--json", *SHORT),
            *("--input", str(tmp_path / "x.npy"), "--plot", str(chart)),
        ]
    )
    assert status == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["model"] == "m"
    assert figures["requests"] + figures["unsent"] == 10
    assert figures["errors"] == {}
    assert figures["latency_ms"]["p50"] <= figures["latency_ms"]["max"]
    assert "<svg" in chart.read_text()


def test_what_fails_is_counted_and_is_status_three(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([address, "--model", "sometimes", *SHORT]) == 3
    told = capsys.readouterr().out
    assert " RESOURCE_EXHAUSTED, such as: Predict at " in told
    assert "the queue\\nis full" in told


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "other"], 'model "other" is not served'),
        (["--model", "m", "--signature", "s"], 'signature "s": expected one of serving_default'),
        (["--model", "m", "--version", "7"], "is not served"),
        (["--model", "m", "--input", "/nowhere/x.npy"], "/nowhere/x.npy: No such file"),
        (["--model", "m", "--ca", "/nowhere/ca.pem"], "/nowhere/ca.pem: No such file"),
        (["--model", "m", "--token-file", "/nowhere/token"], "no token could be had"),
    ],
)
def test_what_can_not_begin_is_one_line(
    address: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([address, *arguments, *SHORT]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err
    assert len(shown.err.splitlines()) == 1


def test_a_token_goes_to_another_machine_over_tls_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models:8500", "--model", "m", "--token-file", "token"]) == 1
    assert "without TLS anybody on the network path can read it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--concurrency", "0"],
        ["--concurrency", "2", "--rate", "5"],
        ["--duration", "86400"],
        ["--rows", "x"],
    ],
)
def test_a_mistaken_option_is_wrong_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["a:1", "--model", "m", *arguments])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_chart_needs_matplotlib_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError):
        main(["127.0.0.1:1", "--model", "m", "--plot", "x.svg"])


def test_the_open_inference_protocol_is_spoken_where_it_is_asked_for(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([address, "--protocol", "v2", "--model", "m", "--json", *SHORT]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["version"] == 1
    assert figures["requests"] > 0
    assert main([address, "--protocol", "v2", "--model", "n", *SHORT]) == 1
    assert "unknown model: 'n'" in capsys.readouterr().err
