"""A batch prediction from end to end: what is asked for, and the run that makes it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from ladle.batch.binding import Binding, ConnectClient, ask, bind, learn, signature_of
from ladle.batch.errors import BatchError, ChangedError
from ladle.batch.folder import MakeWriter, OnStep, OpenFile, OutputFolder, Writer
from ladle.batch.manifest import Manifest, go_on
from ladle.batch.mapping import Rule
from ladle.batch.progress import State
from ladle.batch.readers import files
from ladle.batch.readers.reader import open_reader
from ladle.batch.rows import Part
from ladle.batch.run import Options, run
from ladle.client.errors import FailedPrecondition, InvalidInput
from ladle.client.inputs import planning
from ladle.client.inputs.conversion import Normalize
from ladle.client.models import DEFAULT_SIGNATURE, ModelMetadata, Signature

OutputFormat: TypeAlias = Literal["parquet", "jsonl", "csv", "npy"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be predicted, and where it goes."""

    model: str
    inputs: tuple[str, ...]
    """Files and folders."""
    output: Path
    output_format: OutputFormat = "parquet"
    input_format: str | None = None
    """One of `files.FORMATS`; None for what the extensions tell."""
    version: int | None = None
    label: str | None = None
    signature: str | None = None
    outputs: tuple[str, ...] = ()
    """Of the model; all where there are none."""
    rules: tuple[Rule, ...] = ()
    keep: tuple[str, ...] = ()
    """Columns of the input, or patterns, that go into the output."""
    normalize: Normalize = "auto"
    timeout_s: float = 30.0
    restart: bool = False
    allow_changed_input: bool = False
    allow_changed_model: bool = False
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What has come of a job."""

    rows: int
    """All that are done, those of earlier runs too."""
    failed: int
    """How many of them have no prediction."""
    rows_now: int
    """Done by this run."""
    seconds: float
    shards: int
    versions: tuple[int, ...]
    """The versions of the model that answered."""
    output: str


def carry_out(
    job: Job,
    connect: ConnectClient,
    *,
    tell: Callable[[State], None] = lambda state: None,
    on_step: OnStep = lambda step: None,
) -> Summary:
    """Predict all rows of the input that the output doesn't hold yet. Blocks until that is done.

    Raises:
        BatchError: It can't be done, or not to the end; what is done stays. See `errors`.
        LadleError: The server could not be asked about the model.
        OSError: A file can't be read or written.
        ImportError: A package is missing that the formats need.
    """
    began = time.monotonic()
    input_format, paths = files.find(job.inputs, job.input_format)
    metadata = learn(job, connect)
    binding = bind(job, open_reader(input_format, paths), input_format, metadata)
    wanted = Manifest(
        input=files.fingerprint(paths),
        settings=_settings(job, binding),
        version=metadata.version,
    )
    with OutputFolder(job.output, on_step) as folder:
        manifest = _begin(folder, wanted, job)
        before = manifest.rows
        if not manifest.is_complete:
            client = connect(False)
            manifest = run(
                lambda start: _checked(binding.parts(start), job, metadata),
                partial(ask, client, job, _asked_version(job, metadata)),
                folder,
                manifest,
                _writer_of(job.output_format, signature_of(job, metadata)),
                job.options,
                give_up=client.close,
                tell=tell,
            )
            if files.fingerprint(paths) != manifest.input:
                raise ChangedError("the input was changed while it was read; --restart begins anew")
            manifest = replace(manifest, is_complete=True)
            folder.save(manifest)
    return Summary(
        rows=manifest.rows,
        failed=manifest.failed,
        rows_now=manifest.rows - before,
        seconds=time.monotonic() - began,
        shards=len(manifest.shards),
        versions=tuple(sorted({v for shard in manifest.shards for v in shard.versions})),
        output=os.fspath(job.output),
    )


def _asked_version(job: Job, metadata: ModelMetadata) -> int | None:
    """Return the version to ask: the one at the beginning, so that no two mix unless they may."""
    return job.version if job.allow_changed_model else metadata.version


def _begin(folder: OutputFolder, wanted: Manifest, job: Job) -> Manifest:
    """Return the manifest to go on from, with nothing else left in the folder."""
    folder.check()
    found = None if job.restart else folder.read()
    if found is not None:
        wanted = go_on(
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
    """Return what decides on the output beside input and version, as the manifest has it."""
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
    """Pass the parts on; the first decides whether the rows are of any use to the model."""
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


def _writer_of(output_format: OutputFormat, signature: Signature | None) -> MakeWriter:
    # Outputs of which not every row is of the same shape.
    lists = {
        name
        for name, spec in (signature.outputs.items() if signature else ())
        if spec.shape is None or -1 in spec.shape[1:]
    }

    def make(open_file: OpenFile) -> Writer:
        match output_format:
            case "parquet":
                from ladle.batch.writers.parquet import ParquetShard

                return ParquetShard(open_file, lists=lists)
            case "csv":
                from ladle.batch.writers.csv import CsvShard

                return CsvShard(open_file)
            case "jsonl":
                from ladle.batch.writers.jsonl import JsonlShard

                return JsonlShard(open_file)
            case "npy":
                from ladle.batch.writers.npy import NpyShard

                return NpyShard(open_file)

    return make
