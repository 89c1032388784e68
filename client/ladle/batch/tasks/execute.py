"""Does what one worker of many has to do: its tasks, and then those that nobody has done."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ladle.batch.columns.binding import Binding, checked
from ladle.batch.dispatch.dispatcher import dispatch
from ladle.batch.dispatch.progress import ProgressState
from ladle.batch.errors import BatchError
from ladle.batch.job import Job, TaskSummary
from ladle.batch.model import ConnectClient, asked_version, fetch_metadata, predict, signature_of
from ladle.batch.output.folder import OnStep
from ladle.batch.output.manifest import FILE_NAME, PLAN_NAME
from ladle.batch.readers.opening import open_reader
from ladle.batch.rows import Part, objects
from ladle.batch.tasks.commit import Commit, commit_name, commits_of
from ladle.batch.tasks.finishing import finish, finish_again, read_commit
from ladle.batch.tasks.inputs import TaskInput, task_input
from ladle.batch.tasks.output import TaskOutput
from ladle.batch.tasks.place import LocalPlace, Place
from ladle.batch.tasks.plan import Plan, Task
from ladle.batch.tasks.planning import FILE, check_plan, find_plan, make_plan
from ladle.batch.tasks.store_place import StorePlace
from ladle.batch.tasks.worker import Worker, order
from ladle.batch.writers.opening import writer_maker
from ladle.client.errors import LadleError
from ladle.client.models import ModelMetadata
from ladle.store.errors import StoreError
from ladle.store.opening import open_store
from ladle.store.url import StoreUrl


def execute_tasks(
    job: Job,
    worker: Worker,
    connect: ConnectClient,
    *,
    show: Callable[[ProgressState], None] = lambda state: None,
    on_step: OnStep = lambda step: None,
) -> TaskSummary:
    """Do tasks of a job until all are committed, by this worker or others; blocks until then.

    Any number of workers may do that at once, on any machines that reach input and output. Each may
    be killed at any moment. A task that is done twice counts once.

    `show` is called with the progress, in this thread.

    Raises:
        BatchError: The job can't be done, or not to the end; tasks that are committed stay.
        LadleError: The server could not be asked about the model.
        OSError: A file can't be read or written.
        ImportError: A format needs a package that is not installed.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        place = open_place(job.output, stack)
        given = stack.enter_context(task_input(job.inputs, job.input_format))
        plan = find_plan(place)
        if plan is None:
            plan = make_plan(place, job, given, fetch_metadata(job, connect), on_step)
        place.check_create(PLAN_NAME)
        metadata = fetch_metadata(_asking_for(job, plan), connect)
        binding = check_plan(plan, place, job, given, metadata)
        job = replace(job, options=replace(job.options, shard_rows=plan.shard_rows))
        run = _Run(job, connect, place, given, plan, binding, metadata, show, on_step, began)
        manifest = place.read(FILE_NAME)
        if manifest is None:
            run.do_all(worker)
            commits = finish(place, plan, on_step)
        else:
            commits = commits_of(manifest)
            finish_again(place, commits, on_step)
    return TaskSummary(
        rows=sum(commit.rows for commit in commits),
        failed=sum(commit.failed for commit in commits),
        rows_now=sum(commit.rows for commit in run.done_here),
        seconds=time.monotonic() - began,
        shards=sum(file.name.startswith("part-") for commit in commits for file in commit.files),
        versions=tuple(sorted({v for commit in commits for v in commit.versions})),
        output=str(job.output),
        tasks=len(commits),
        tasks_now=len(run.done_here),
    )


def open_place(output: Path | StoreUrl, stack: ExitStack, *, make: bool = True) -> Place:
    """Return the place of an output, which the stack closes.

    Args:
        output: a folder, or a place in a store.
        stack: what closes it.
        make: whether a folder is made where there is none.

    Raises:
        BatchError: The store can't be used.
        OSError: The folder can't be made.
    """
    if isinstance(output, Path):
        return LocalPlace(output, make=make)
    try:
        return stack.enter_context(StorePlace(output, open_store(output)))
    except StoreError as error:
        raise BatchError(f"--output: {error}") from None


def _asking_for(job: Job, plan: Plan) -> Job:
    """Return the job with the version that the other workers ask, which may not be the newest."""
    if job.allow_changed_model or job.version is not None or plan.version is None:
        return job
    return replace(job, version=plan.version, label=None)


@dataclass
class _Run:
    """One worker at its work; for one thread."""

    job: Job
    connect: ConnectClient
    place: Place
    given: TaskInput
    plan: Plan
    binding: Binding
    metadata: ModelMetadata
    show: Callable[[ProgressState], None]
    on_step: OnStep
    began_s: float
    done: set[int] = field(default_factory=set)
    """Tasks that are known to be committed."""
    commits: dict[int, Commit] = field(default_factory=dict)
    """Those of them that were read, or made here."""
    done_here: list[Commit] = field(default_factory=list)

    def do_all(self, worker: Worker) -> None:
        """Do the worker's own tasks, and then those of others that are not committed."""
        self.done |= self.place.committed()
        own, others = order(len(self.plan.tasks), worker)
        for number in own:
            self._do(number)
        self.done |= self.place.committed()
        for number in others:
            self._do(number)

    def _do(self, number: int) -> None:
        """Do a task, unless it is committed; no harm is done if somebody else does it meanwhile."""
        if self._is_committed(number):
            return
        rows, failed = self._counts_before()
        output = TaskOutput(
            self.place,
            self.plan,
            number,
            secrets.token_hex(4),
            writer_maker(self.job.output_format, signature_of(self.job, self.metadata)),
            rows_before=rows,
            failed_before=failed,
            on_step=self.on_step,
        )
        try:
            self._predict(self.plan.tasks[number], output)
            commit = output.finish()
            if self.place.create(commit_name(number), commit.to_json()):
                self.on_step("committed")
                self.commits[number] = commit
                self.done_here.append(commit)
            else:
                output.remove()
            self.done.add(number)
        except (BatchError, LadleError, OSError):
            # Whoever sees all tasks done removes what does not count, and that may be a part of
            # this attempt. What failed here does not matter where somebody else has succeeded.
            if not self._was_forestalled(number, output):
                raise

    def _predict(self, task: Task, output: TaskOutput) -> None:
        client = self.connect(False)
        with self.given.opened(task) as opened:
            reader = open_reader(self.given.input_format, opened.paths, opened.name_of)
            missing = [name for name in self._needed if name not in reader.columns]
            if missing and self.given.input_format not in ("jsonl", "tfrecord"):
                raise BatchError(
                    f"{opened.name_of(opened.paths[0])}: expected the columns "
                    f"{', '.join(self._needed)}, got {', '.join(reader.columns)}"
                )
            binding = replace(self.binding, reader=reader)
            dispatch(
                checked(self._parts(binding, task), self.job, self.metadata),
                partial(predict, client, self.job, asked_version(self.job, self.metadata)),
                output,
                self.job.options,
                give_up=client.close,
                show=self._show,
            )

    def _parts(self, binding: Binding, task: Task) -> Iterator[Part]:
        file = self.plan.file_of(task)
        # numpy's files have no place for text.
        shows_file = file is not None and self.job.output_format != "npy"
        for part in rows_of(task, binding.parts(task.skipped)):
            if shows_file:
                column = objects([file] * len(part.numbers))
                part = replace(part, kept={FILE: column, **part.kept})
            yield part

    @property
    def _needed(self) -> list[str]:
        columns = [name for source in self.binding.sources.values() for name in source.columns]
        return list(dict.fromkeys([*columns, *self.binding.keep]))

    def _is_committed(self, number: int) -> bool:
        if number not in self.done:
            commit = read_commit(self.place, number)
            if commit is None:
                return False
            self.commits[number] = commit
            self.done.add(number)
        return True

    def _was_forestalled(self, number: int, output: TaskOutput) -> bool:
        with suppress(BatchError, OSError):
            output.remove()
        with suppress(BatchError, OSError):
            return self._is_committed(number)
        return False

    def _counts_before(self) -> tuple[int, int]:
        """Return how many rows are done, and how many have failed, as far as is known here.

        Only a bound on failed rows makes it worth while to read the others' commits.
        """
        if self.job.options.max_failed is not None:
            self.done |= self.place.committed()
            for number in self.done - self.commits.keys():
                commit = read_commit(self.place, number)
                if commit is not None:
                    self.commits[number] = commit
        known = self.commits.values()
        return sum(commit.rows for commit in known), sum(commit.failed for commit in known)

    def _show(self, state: ProgressState) -> None:
        tasks = max(len(self.plan.tasks), 1)
        self.show(
            replace(
                state,
                share=min((len(self.done) + state.share) / tasks, 1.0),
                elapsed_s=time.monotonic() - self.began_s,
                rows_before=state.rows_before - sum(commit.rows for commit in self.done_here),
            )
        )


def rows_of(task: Task, parts: Iterator[Part]) -> Iterator[Part]:
    """Pass on the rows of a task, by their numbers in the task's plan.

    `parts` are those of the file from the task's first row on; or, where each file is a row, those
    of the task's files.
    """
    moved_by = task.start - task.skipped
    for part in parts:
        moved = part.moved(moved_by)
        if task.stop is not None and moved.stop > task.stop:
            if moved.start < task.stop:
                yield moved.cut_before(task.stop)[0]
            return
        yield moved
