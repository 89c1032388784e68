"""What ends a batch prediction.

BatchError
├── ChangedError    the input, the model or the settings are not those of the run before
└── ModelLost       the server is gone, or no longer serves what was asked
"""

from __future__ import annotations


class BatchError(Exception):
    """Why no further rows can be predicted, in one line; rows that are done stay done."""


class ChangedError(BatchError):
    """Going on would mix what doesn't belong together."""


class ModelLost(BatchError):
    """The model can't be asked any more; it may be later."""


def one_line(told: object) -> str:
    """Return a text, or what an error says, without line breaks."""
    return " ".join(str(told).split())
