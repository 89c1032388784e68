from __future__ import annotations

import subprocess
import sys

import pytest

import ladle.export


def modules_after(program: str) -> set[str]:
    """Run `program` in a fresh interpreter, and return the top-level modules it has loaded."""
    lines = (
        "import sys",
        "try:",
        f"    {program}",
        "except SystemExit:",
        "    pass",
        "print(*{name.partition('.')[0] for name in sys.modules})",
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return set(finished.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "program",
    [
        "import ladle.export",
        "from ladle.export.cli import main; main(['--help'])",
        "from ladle.export.cli import main; main(['m', '--data', 'digits', '--epochs', 'x'])",
    ],
)
def test_nothing_heavy_is_imported_before_there_is_work(program: str) -> None:
    loaded = modules_after(program)
    assert "ladle" in loaded
    assert loaded.isdisjoint({"numpy", "tensorflow", "keras", "sklearn"})


def test_data_is_loaded_without_tensorflow() -> None:
    loaded = modules_after("import ladle.export; ladle.export.load_data('digits')")
    assert "sklearn" in loaded
    assert loaded.isdisjoint({"tensorflow", "keras"})


def test_every_public_name_is_there() -> None:
    for name in ladle.export.__all__:
        assert getattr(ladle.export, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        ladle.export.nothing  # noqa: B018


def test_an_old_name_still_works_and_names_the_new_one() -> None:
    with pytest.warns(DeprecationWarning, match="now CustomSignature"):
        assert ladle.export.OwnSignature is ladle.export.CustomSignature
    with (
        pytest.warns(DeprecationWarning, match="now export_model"),
        pytest.raises(ValueError, match="recipe: expected"),
    ):
        ladle.export.export_classifier("m", ladle.export.load_data("digits"), recipe="none")
