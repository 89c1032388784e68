"""Executes a job from its input to its output folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from ladle.batch.columns.binding import Binding, bind
from ladle.batch.dispatch.dispatcher import dispatch
from ladle.batch.errors import BatchError, ChangedError
from ladle.batch.job import Job, Summary
from ladle.batch.model import ConnectClient, fetch_metadata, predict, signature_of
from ladle.batch.output.folder import OnStep, OutputFolder
from ladle.batch.output.manifest import Manifest, resumed
from ladle.batch.progress import ProgressState
from ladle.batch.readers import files
from ladle.batch.readers.opening import open_reader
from ladle.batch.rows import Part
from ladle.batch.stores.inputs import Input, fetched
from ladle.batch.stores.output import StoreOutputFolder
from ladle.batch.writers.opening import writer_maker
from ladle.client.errors import FailedPrecondition, InvalidInput
from ladle.client.inputs import planning
from ladle.client.models import DEFAULT_SIGNATURE, ModelMetadata
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
        settings=_settings(job, binding),
        version=metadata.version,
    )
    with _output(job, on_step) as folder:
        manifest = _begin(folder, wanted, job)
        rows_before = manifest.rows
        if not manifest.is_complete:
            client = connect(False)
            manifest = dispatch(
                lambda start: _checked(binding.parts(start), job, metadata),
                partial(predict, client, job, _asked_version(job, metadata)),
                folder,
                manifest,
                writer_maker(job.output_format, signature_of(job, metadata)),
                job.options,
                give_up=client.close,
                show=show,
            )
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


def _asked_version(job: Job, metadata: ModelMetadata) -> int | None:
    """Return the version that each request names: one for all, unless the job allows several."""
    return job.version if job.allow_changed_model else metadata.version


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


def _settings(job: Job, binding: Binding) -> dict[str, object]:
    """Return what decides on the output beside input and version, for the manifest."""
    return {
        "model": job.model,
        "signature": job.signature or DEFAULT_SIGNATURE,
        "outputs": list(job.outputs),
        "map": {
            name: [*source.columns, *([str(source.dtype)] if source.dtype else [])]
            for name, source in sorted(binding.sources.items())
        },
        "keep": list(binding.keep),
        "normalize": str(job.normalize).lower(),
        "output_format": job.output_format,
    }


def _checked(parts: Iterator[Part], job: Job, metadata: ModelMetadata) -> Iterator[Part]:
    """Pass the parts on; the first part shows whether the model takes such rows at all."""
    is_checked = False
    for part in parts:
        if not is_checked and len(part.numbers):
            try:
                given = dict(part.tensors)
                plan = planning.plan(metadata, job.signature or "", given, job.normalize)
                planning.check_outputs(metadata, plan.signature, job.outputs)
            except (InvalidInput, FailedPrecondition) as error:
                raise BatchError(str(error)) from None
            is_checked = True
        yield part
