"""Makes the plan of a job, or finds the one that another worker has made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from ladle.batch.columns.binding import Binding, bind, settings_of
from ladle.batch.errors import BatchError
from ladle.batch.job import Job
from ladle.batch.output.folder import OnStep
from ladle.batch.output.manifest import PLAN_NAME
from ladle.batch.readers.opening import TEXT_FORMATS, open_reader
from ladle.batch.readers.tfrecord import RECORD
from ladle.batch.tasks.inputs import TaskInput
from ladle.batch.tasks.place import Place, is_foreign, refusal
from ladle.batch.tasks.plan import (
    Plan,
    Task,
    check_same,
    tasks_of_files,
    tasks_of_images,
    tasks_of_rows,
)
from ladle.client.models import ModelMetadata

FILE = "file"
"""The column with the file in which a row is numbered."""
_MOST_SAMPLED = 10
# Formats whose files say how many rows they have.
_COUNTED = ("npy", "npz", "parquet")


@dataclass(frozen=True)
class KnownColumns:
    """A `Reader` of no rows, whose columns are known; what they are bound to depends on these."""

    columns: tuple[str, ...]
    is_text: bool
    total_rows: int | None = None

    def read(self, start: int, wanted: object) -> NoReturn:
        """Raise: there is nothing to read."""
        raise AssertionError(f"no reader for row {start}")


def find_plan(place: Place) -> Plan | None:
    """Return the plan that is at a place; None where there is nothing at all. Blocks.

    Raises:
        BatchError: There is something else.
    """
    found = _read(place)
    if found is None:
        names = set(place.sizes())
        # Whoever makes the plan writes it before all else; it may be there by now.
        if is_foreign(names) and (found := _read(place)) is None:
            raise refusal(place, names)
    return found


def make_plan(
    place: Place, job: Job, given: TaskInput, metadata: ModelMetadata, on_step: OnStep
) -> Plan:
    """Make the plan of a job, and return the one that counts: another worker may be faster. Blocks.

    Args:
        place: where it goes.
        job: what is to be done.
        given: the input.
        metadata: the model's.
        on_step: see `OnStep`.

    Raises:
        BatchError: The job can't be done.
    """
    columns = _columns(given)
    binding = bind_columns(job, given, columns, metadata)
    made = _plan(job, given, columns, binding, metadata, _tasks(job, given))
    place.create(PLAN_NAME, made.to_json())
    on_step("plan made")
    found = _read(place)
    if found is None:
        raise BatchError(f"{place}: {PLAN_NAME} was removed as soon as it was written")
    return found


def check_plan(
    found: Plan, place: Place, job: Job, given: TaskInput, metadata: ModelMetadata
) -> Binding:
    """Check that a worker would do what a plan says; return the columns' binding, without a reader.

    Raises:
        ChangedError: The plan is of another input, other settings, or another version.
        BatchError: The job can't be done.
    """
    binding = bind_columns(job, given, found.columns, metadata)
    wanted = _plan(job, given, found.columns, binding, metadata, ())
    check_same(found, wanted, allow_changed_model=job.allow_changed_model, place=place)
    return binding


def bind_columns(
    job: Job, given: TaskInput, columns: tuple[str, ...], metadata: ModelMetadata
) -> Binding:
    """Bind columns that are known to the model's inputs.

    Raises:
        BatchError: An input of the model has no column, or the model has no such signature.
    """
    reader = KnownColumns(columns, given.input_format in TEXT_FORMATS)
    binding = bind(job, reader, given.input_format, metadata)
    if FILE in binding.keep and given.input_format not in (*_COUNTED, "images"):
        raise BatchError(
            f'--keep: the output has a column "{FILE}" of its own, which says in which file a row '
            "is numbered"
        )
    return binding


def _tasks(job: Job, given: TaskInput) -> tuple[Task, ...]:
    most = job.options.shard_rows
    if given.are_rows:
        return tasks_of_images(len(given.files), most)
    if given.input_format not in _COUNTED:
        return tasks_of_files(len(given.files))
    groups: list[list[int]] = []
    for file in given.files:
        with given.opened_for_size(file) as opened:
            # Imported here, because only some formats need pyarrow.
            if given.input_format == "parquet":
                from ladle.batch.readers.parquet import row_groups

                groups.append(row_groups(opened, file.name))
            else:
                from ladle.batch.readers.npy import row_count

                groups.append([row_count(opened, file.name)])
    return tasks_of_rows(groups, most)


def _columns(given: TaskInput) -> tuple[str, ...]:
    """Return the columns of the input, by its first files: as many as it takes to see some."""
    if given.are_rows:
        return open_reader(given.input_format, ()).columns
    columns: tuple[str, ...] = ()
    for number in range(min(len(given.files), _MOST_SAMPLED)):
        with given.opened(Task(number, 0, None)) as opened:
            columns = open_reader(given.input_format, opened.paths, opened.name_of).columns
        if set(columns) - {RECORD}:  # a file of records may be empty
            break
    return columns


def _plan(
    job: Job,
    given: TaskInput,
    columns: tuple[str, ...],
    binding: Binding,
    metadata: ModelMetadata,
    tasks: tuple[Task, ...],
) -> Plan:
    return Plan(
        input=given.fingerprint,
        input_format=given.input_format,
        files=() if given.are_rows else tuple(file.name for file in given.files),
        columns=columns,
        settings=settings_of(job, binding),
        version=metadata.version,
        shard_rows=job.options.shard_rows,
        tasks=tasks,
    )


def _read(place: Place) -> Plan | None:
    text = place.read(PLAN_NAME)
    try:
        return None if text is None else Plan.from_json(text)
    except BatchError as error:
        raise BatchError(f"{place}: {error}") from None
