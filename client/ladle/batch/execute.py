"""Executes a job from its input to its output folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ladle.batch.columns.binding import bind, checked, settings_of
from ladle.batch.dispatch.dispatcher import dispatch
from ladle.batch.dispatch.progress import ProgressState
from ladle.batch.errors import BatchError, ChangedError
from ladle.batch.job import Job, Summary
from ladle.batch.model import (
    ConnectClient,
    asked_version,
    fetch_metadata,
    predict,
    signature_of,
)
from ladle.batch.output.folder import OnStep, OutputFolder
from ladle.batch.output.manifest import Manifest, resumed
from ladle.batch.output.shards import ShardedOutput
from ladle.batch.readers import files
from ladle.batch.readers.opening import open_reader
from ladle.batch.stores.inputs import Input, fetched
from ladle.batch.stores.output import StoreOutputFolder
from ladle.batch.writers.opening import writer_maker
from ladle.store.errors import StoreError
from ladle.store.opening import open_store


def execute(
    job: Job,
    connect: ConnectClient,
    *,
    show: Callable[[ProgressState], None] = lambda state: None,
    on_step: OnStep = lambda step: None,
) -> Summary:
    """Predict all rows of the input that the output doesn't hold yet; blocks until that is done.

    `show` is called with the progress, in this thread.

    Raises:
        BatchError: The job can't be done, or not to the end; rows that are done stay. See `errors`.
        LadleError: The server could not be asked about the model.
        OSError: A file can't be read or written.
        ImportError: A format needs a package that is not installed.
    """
    with fetched(job.inputs, job.input_format) as given:
        return _execute(job, connect, given, show, on_step)


def _execute(
    job: Job,
    connect: ConnectClient,
    given: Input,
    show: Callable[[ProgressState], None],
    on_step: OnStep,
) -> Summary:
    began = time.monotonic()
    input_format, paths = files.find(given.paths, job.input_format)
    metadata = fetch_metadata(job, connect)
    reader = open_reader(input_format, paths, given.name_of)
    binding = bind(job, reader, input_format, metadata)
    wanted = Manifest(
        input=files.fingerprint(paths),
        settings=settings_of(job, binding),
        version=metadata.version,
    )
    with _output(job, on_step) as folder:
        manifest = _begin(folder, wanted, job)
        rows_before = manifest.rows
        if not manifest.is_complete:
            client = connect(False)
            output = ShardedOutput(
                folder,
                manifest,
                writer_maker(job.output_format, signature_of(job, metadata)),
                shard_rows=job.options.shard_rows,
                shard_s=job.options.shard_s,
            )
            dispatch(
                checked(binding.parts(manifest.rows), job, metadata),
                partial(predict, client, job, asked_version(job, metadata)),
                output,
                job.options,
                give_up=client.close,
                show=show,
            )
            manifest = output.manifest
            if files.fingerprint(paths) != manifest.input:
                raise ChangedError("the input was changed while it was read; --restart begins anew")
            manifest = replace(manifest, is_complete=True)
            folder.save(manifest)
    return Summary(
        rows=manifest.rows,
        failed=manifest.failed,
        rows_now=manifest.rows - rows_before,
        seconds=time.monotonic() - began,
        shards=len(manifest.shards),
        versions=tuple(sorted({v for shard in manifest.shards for v in shard.versions})),
        output=str(job.output),
    )


def _output(job: Job, on_step: OnStep) -> OutputFolder:
    if isinstance(job.output, Path):
        return OutputFolder(job.output, on_step)
    try:
        return StoreOutputFolder(job.output, open_store(job.output), on_step)
    except StoreError as error:
        raise BatchError(f"--output: {error}") from None


def _begin(folder: OutputFolder, wanted: Manifest, job: Job) -> Manifest:
    """Return the manifest to go on from; nothing else is left in the folder."""
    folder.check()
    found = None if job.restart else folder.read()
    if found is not None:
        wanted = resumed(
            found,
            wanted,
            allow_changed_input=job.allow_changed_input,
            allow_changed_model=job.allow_changed_model,
        )
    if wanted != found:
        folder.save(wanted)
    folder.remove_leftovers(wanted)
    return wanted
