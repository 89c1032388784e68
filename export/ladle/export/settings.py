"""How one export goes, whatever its data are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ladle.export.publishing.destination import Destination
from ladle.export.publishing.requirements import Requirements
from ladle.export.report.plots import prepare_plots
from ladle.export.training.fitting import Verbosity
from ladle.export.training.options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `export_model` that do not depend on the kind of data."""

    fit: bool
    """Whether the model is trained; if not, it is exported as it is."""
    allow_unsafe_model: bool
    signatures: Any
    options: TrainingOptions
    requirements: Requirements
    number: int | None
    """The version to publish; None for the next one."""
    plots: str | os.PathLike[str] | None
    verbose: Verbosity

    def prepare(self, destination: Destination) -> None:
        """Find out, before a long training, whether what it gives can be written; blocks.

        Raises:
            PublishError: It can't be, or the version's number is taken.
        """
        destination.prepare()
        if self.plots is not None:
            prepare_plots(self.plots)
        if self.number is not None:
            destination.check_free(self.number)
