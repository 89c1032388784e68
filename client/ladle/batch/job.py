"""What is to be predicted, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ladle.batch.columns.mapping import ColumnRule
from ladle.batch.dispatch.options import Options
from ladle.batch.writers.opening import OutputFormat
from ladle.client.inputs.conversion import Normalize
from ladle.store.url import StoreUrl


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be predicted, and where the predictions go."""

    model: str
    inputs: tuple[str, ...]
    """Files and folders, and URLs of such in stores."""
    output: Path | StoreUrl
    """A folder, or a place in a store."""
    output_format: OutputFormat = "parquet"
    input_format: str | None = None
    """A key of `files.FORMATS`; None for the format that the extensions show."""
    version: int | None = None
    label: str | None = None
    signature: str | None = None
    outputs: tuple[str, ...] = ()
    """Names of the model's outputs; empty for all."""
    rules: tuple[ColumnRule, ...] = ()
    keep: tuple[str, ...] = ()
    """Columns of the input, or patterns, that go into the output."""
    normalize: Normalize = "auto"
    restart: bool = False
    allow_changed_input: bool = False
    allow_changed_model: bool = False
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of a job."""

    rows: int
    """How many rows are done, those of earlier runs included."""
    failed: int
    """How many of `rows` have no prediction."""
    rows_now: int
    """How many rows this run did."""
    seconds: float
    shards: int
    versions: tuple[int, ...]
    """The versions of the model that answered."""
    output: str


@dataclass(frozen=True, kw_only=True)
class TaskSummary(Summary):
    """What came of a job that many workers do; its `rows` are those of all."""

    tasks: int
    tasks_now: int
    """How many tasks this worker has committed."""
