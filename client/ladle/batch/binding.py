"""How the rows of an input become the inputs of a model, and how the model is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from ladle.batch import mapping
from ladle.batch.errors import BatchError
from ladle.batch.mapping import Source
from ladle.batch.preparing import prepare
from ladle.batch.readers.images import PATH
from ladle.batch.readers.reader import Reader
from ladle.batch.rows import Part
from ladle.client import Client
from ladle.client.errors import Unimplemented
from ladle.client.models import DEFAULT_SIGNATURE, ModelMetadata, Signature
from ladle.client.prediction import Prediction

if TYPE_CHECKING:
    from ladle.batch.job import Job

ConnectClient: TypeAlias = "Callable[[bool], Client]"
"""Makes a client; True for one that makes calls again by itself, as it would."""


@dataclass(frozen=True, kw_only=True)
class Binding:
    """How rows of an input become the inputs of a model."""

    reader: Reader
    sources: dict[str, Source]
    keep: tuple[str, ...]

    def parts(self, start: int) -> Iterator[Part]:
        """Yield the rows from number `start` on, ready to be sent."""
        columns = [name for source in self.sources.values() for name in source.columns]
        wanted = tuple(dict.fromkeys([*columns, *self.keep]))
        for rows in self.reader.read(start, wanted):
            yield from prepare(rows, self.sources, self.keep)


def learn(job: Job, connect: ConnectClient) -> ModelMetadata:
    """Ask which version answers, and how it is called.

    Raises:
        LadleError: The server could not be asked.
    """
    with connect(True) as client:
        try:
            return client.metadata(job.model, version=job.version, label=job.label)
        except Unimplemented:  # then nothing is checked here
            return ModelMetadata(model=job.model, version=job.version, signatures={})


def bind(job: Job, reader: Reader, input_format: str, metadata: ModelMetadata) -> Binding:
    """Return how the input's columns become the model's inputs.

    Raises:
        BatchError: A tensor has no column, or the model no such signature.
    """
    signature = signature_of(job, metadata)
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
    )
    keep = job.keep or ((PATH,) if are_images else ())
    return Binding(reader=reader, sources=sources, keep=mapping.matching(keep, reader.columns))


def ask(client: Client, job: Job, version: int | None, part: Part) -> Prediction:
    """Have the model answer a part; as `Client.predict`."""
    return client.predict(
        job.model,
        part.tensors,
        version=version,
        label=job.label if version is None else None,
        signature=job.signature,
        outputs=job.outputs,
        timeout=job.timeout_s,
        normalize=job.normalize,
    )


def signature_of(job: Job, metadata: ModelMetadata) -> Signature | None:
    """Return the signature that is asked; None where the server doesn't tell.

    Raises:
        BatchError: The model has none of that name.
    """
    if not metadata.signatures:
        return None
    name = job.signature or DEFAULT_SIGNATURE
    if name not in metadata.signatures:
        raise BatchError(
            f'model "{job.model}" has no signature "{name}"; it has '
            f"{', '.join(metadata.signatures)}"
        )
    return metadata.signatures[name]
