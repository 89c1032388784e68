"""Write the charts of a training as SVG files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ladle.export.errors import PublishError
from ladle.export.report import svg
from ladle.export.report.evaluation import Evaluation
from ladle.export.report.page import charts_of


def prepare_plots(folder: str | os.PathLike[str]) -> None:
    """Make `folder` where it is missing, and see that plots can be written there.

    Raises:
        PublishError: They can't.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PublishError(f"plots: no permission to write into {folder}")


def write_plots(
    folder: str | os.PathLike[str],
    history: Mapping[str, Any],
    evaluation: Evaluation,
    labels: Sequence[str],
) -> None:
    """Write a chart for each measure in `history`, such as loss.svg, and one of the evaluation.

    That is confusion.svg for a classifier of up to 100 classes, or predictions.svg for a
    regression. Files of these names are replaced.

    Raises:
        PublishError: The folder can't be written.
    """
    charts = {re.sub(r"[^\w.-]", "_", name): chart for name, chart in charts_of(history).items()}
    if evaluation.confusion is not None:
        charts["confusion"] = svg.confusion_matrix(evaluation.confusion, labels)
    if evaluation.pairs:
        charts["predictions"] = svg.points(
            "predictions", evaluation.pairs, "true value", "predicted value"
        )
    for name, chart in charts.items():
        try:
            (Path(folder) / f"{name}.svg").write_text(chart, encoding="utf-8")
        except OSError as error:
            raise _refused(folder, error) from error


def _refused(folder: str | os.PathLike[str], error: OSError) -> PublishError:
    return PublishError(f"plots: cannot write into {folder}: {error.strerror or error}")
