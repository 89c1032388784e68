"""What ends a batch prediction.

BatchError
├── ChangedError    the input, the model or the settings are not those of the run before
└── ModelLost       the server is gone, or no longer serves what was asked
"""

from __future__ import annotations


class BatchError(Exception):
    """The reason why a run ends, in one line; rows that are done stay done."""


class ChangedError(BatchError):
    """The output would mix predictions of different inputs, models or settings."""


class ModelLost(BatchError):
    """The model doesn't answer any more; a later run may succeed."""


def one_line(error: object) -> str:
    """Return an error's text, or any text, without line breaks."""
    return " ".join(str(error).split())
