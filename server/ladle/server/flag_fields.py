"""Fields of a dataclass that are command line flags too: what is said of each, and checked."""

from __future__ import annotations

from dataclasses import Field, field
from typing import Any

# A year: a wait without end is none that a system has.
_MOST_SECONDS = 365 * 86400


def flag(
    default: Any,
    help_text: str,
    *,
    least: float | None = None,
    choices: tuple[str, ...] | None = None,
    without_effect: str = "",
) -> Any:
    """A field that is a command line flag too; the text is what --help says of it.

    Args:
        default: tensorflow_model_server's, but where ladle's own is told in the text.
        help_text: one line.
        least: the smallest number that means anything.
        choices: the only texts that mean anything.
        without_effect: why a flag of tensorflow_model_server's does nothing here.
    """
    return field(
        default=default,
        metadata={
            "help": help_text,
            "least": least,
            "choices": choices,
            "without_effect": without_effect,
        },
    )


def ignored(default: Any, reason: str) -> Any:
    """A flag of tensorflow_model_server's that does nothing here, and why."""
    return flag(default, f"accepted, and does nothing: {reason}", without_effect=reason)


def check(checked: Field[Any], value: Any) -> None:
    """Hold a value to what was said of its field.

    Raises:
        ValueError: It is out of the field's range.
    """
    least, choices = checked.metadata["least"], checked.metadata["choices"]
    if isinstance(checked.default, float) and not abs(value) <= _MOST_SECONDS:
        raise ValueError(f"--{checked.name}: expected a number up to {_MOST_SECONDS}, got {value}")
    if least is not None and not value >= least:
        raise ValueError(f"--{checked.name}: expected {least} or more, got {value}")
    if choices is not None and value not in choices:
        raise ValueError(
            f"--{checked.name}: expected one of {', '.join(map(repr, choices))}, got {value!r}"
        )
