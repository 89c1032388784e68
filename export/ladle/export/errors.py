"""What `ladle.export` raises when an export cannot be done.

ExportError          the message is one line for whoever asked for the export
├── DataError        the data cannot be had, or is not what training takes
├── CheckError       what was written failed a check, and is not published
└── PublishError     the version cannot be written under its base path
"""

from __future__ import annotations


class ExportError(Exception):
    """An export that ends without a new version; earlier versions are untouched."""


class DataError(ExportError, ValueError):
    """Training data that is missing, unreadable or not of the expected form."""


class CheckError(ExportError):
    """A written model that failed a check; `check` is the check's name."""

    def __init__(self, check: str, reason: str) -> None:
        super().__init__(f"check {check} failed: {reason}")
        self.check = check


class PublishError(ExportError):
    """A version that cannot be written: no space, no permission, not a model's folder."""
