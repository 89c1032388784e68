"""The columns of an input, bound to the inputs of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ladle.batch.columns import mapping
from ladle.batch.columns.mapping import ColumnSource
from ladle.batch.columns.tensors import prepare
from ladle.batch.errors import BatchError
from ladle.batch.job import Job
from ladle.batch.model import signature_of
from ladle.batch.readers.images import PATH
from ladle.batch.readers.reader import Reader
from ladle.batch.rows import Part
from ladle.client.errors import FailedPrecondition, InvalidInput
from ladle.client.inputs import planning
from ladle.client.models import DEFAULT_SIGNATURE, ModelMetadata


@dataclass(frozen=True, kw_only=True)
class Binding:
    """Which column becomes which input of a model, and which columns go into the output."""

    reader: Reader
    sources: dict[str, ColumnSource]
    """By the name of the input."""
    keep: tuple[str, ...]
    """Columns that go into the output."""

    def parts(self, start: int) -> Iterator[Part]:
        """Yield the rows from number `start` on, ready to be sent."""
        columns = [name for source in self.sources.values() for name in source.columns]
        wanted = tuple(dict.fromkeys([*columns, *self.keep]))
        for rows in self.reader.read(start, wanted):
            yield from prepare(rows, self.sources, self.keep)


def bind(job: Job, reader: Reader, input_format: str, metadata: ModelMetadata) -> Binding:
    """Bind the input's columns to the model's inputs.

    Raises:
        BatchError: An input of the model has no column, or the model has no such signature.
    """
    signature = signature_of(job, metadata)
    if not reader.columns:  # JSON lines without a line
        return Binding(reader=reader, sources={}, keep=())
    are_images = input_format == "images"
    sources = mapping.bind(
        signature.inputs if signature else {},
        signature.optional if signature else frozenset(),
        reader.columns,
        job.rules,
        is_text=reader.is_text,
        are_images=are_images,
        is_normalised=(
            job.normalize is not None
            and metadata.card is not None
            and metadata.card.normalization is not None
        ),
        of_card=tuple(column.name for column in metadata.card.columns) if metadata.card else (),
    )
    keep = job.keep or ((PATH,) if are_images else ())
    return Binding(reader=reader, sources=sources, keep=mapping.matching(keep, reader.columns))


def settings_of(job: Job, binding: Binding) -> dict[str, object]:
    """Return what decides on the output beside input and version, as plain values of JSON."""
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


def checked(parts: Iterator[Part], job: Job, metadata: ModelMetadata) -> Iterator[Part]:
    """Pass the parts on; the first part shows whether the model takes such rows at all.

    Raises:
        BatchError: The model doesn't.
    """
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
