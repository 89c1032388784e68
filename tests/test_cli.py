from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from ladle import cli

Install = Callable[[str, Callable[[list[str]], int]], None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a function in the place of a command's `main`."""

    def put(module: str, main: Callable[[list[str]], int]) -> None:
        stand_in = ModuleType(module)
        stand_in.main = main  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module, stand_in)

    return put


@pytest.mark.parametrize(
    ("command", "module"), [("export", "ladle.export.cli"), ("serve", "ladle.server.cli")]
)
def test_a_command_gets_its_arguments_and_gives_the_exit_status(
    install: Install, command: str, module: str
) -> None:
    seen: list[list[str]] = []

    def main(argv: list[str]) -> int:
        seen.append(argv)
        return 7

    install(module, main)
    assert cli.main([command, "--port=8500", "--help"]) == 7
    assert seen == [["--port=8500", "--help"]]


def test_help_tells_of_every_command_and_of_the_whole_way(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for told in (
        "\n  export ",
        "\n  serve ",
        "pip install",
        "ladle serve models/digits",
        "Client(",
    ):
        assert told in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_without_a_command_the_help_is_shown_as_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().err.startswith("usage: ladle COMMAND")


@pytest.mark.parametrize("command", ["frobnicate", "", "--frobnicate"])
def test_an_unknown_command_ends_in_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command]) == 2
    assert capsys.readouterr().err == (
        f"ladle: expected a command ({', '.join(cli.COMMANDS)}), "
        f'got "{command}"; see ladle --help\n'
    )


@pytest.mark.parametrize(
    ("command", "meant"), [("sreve", "serve"), ("prdict", "predict"), ("model", "models")]
)
def test_a_mistyped_command_is_told_with_the_one_that_was_meant(
    command: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command]) == 2
    assert capsys.readouterr().err.endswith(f'got "{command}"; did you mean "ladle {meant}"?\n')


@pytest.mark.parametrize(
    ("option", "advice"),
    [
        ("--concurency=4", "did you mean --concurrency?"),
        ("--plott", "did you mean --plot?"),
        ("--xyzzy", "see ladle bench --help"),
    ],
)
def test_a_mistyped_option_is_told_with_the_one_that_was_meant(
    option: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["bench", "localhost:8500", "--model", "m", option])
    assert capsys.readouterr().err == (f"ladle bench: unrecognized arguments: {option}; {advice}\n")


@pytest.mark.parametrize(
    ("command", "module", "wanted"),
    [
        ("export", "ladle.export.cli", "'ladle[export]'"),
        ("serve", "ladle.server.cli", "'ladle[server]'"),
        ("health", "ladle.client.health_cli", "ladle"),
    ],
)
def test_a_missing_extra_ends_in_one_line_that_says_what_to_install(
    install: Install, capsys: pytest.CaptureFixture[str], command: str, module: str, wanted: str
) -> None:
    def main(argv: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'tensorflow'", name="tensorflow.python")

    install(module, main)
    assert cli.main([command]) == 1
    assert capsys.readouterr().err == (
        f"ladle: {command} needs the package tensorflow: pip install {wanted}\n"
    )


def test_a_missing_part_of_ladle_is_a_mistake_of_ours(install: Install) -> None:
    def main(argv: list[str]) -> int:
        raise ModuleNotFoundError("No module named 'ladle.gone'", name="ladle.gone")

    install("ladle.server.cli", main)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_an_interruption_is_no_traceback(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: list[str]) -> int:
        raise KeyboardInterrupt

    install("ladle.export.cli", main)
    assert cli.main(["export"]) == 130
    assert capsys.readouterr().err == "ladle: export: interrupted\n"


def test_the_version_is_told() -> None:
    result = _ladle("--version")
    assert result.returncode == 0
    assert result.stdout.startswith("ladle ")


def test_usage_errors_reach_the_shell() -> None:
    result = _ladle("frobnicate")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["frobnicate"]])
def test_answering_by_itself_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from ladle.cli import main; main(sys.argv[1:]); heavy = "
        "{'numpy', 'grpc', 'google.protobuf', 'tensorflow', 'ladle.client'} & {*sys.modules}; "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)


def _ladle(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ladle.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [[], ["serve"], ["predict"], ["export"], ["models"], ["bench"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_help_that_nobody_reads_ends_quietly(command: list[str], unbuffered: str) -> None:
    """As with `ladle serve --help | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "ladle.cli", *command, "--help"],
            stdout=gone,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, b"")
