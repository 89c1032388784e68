"""The model that answers a job, as its server describes it, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ladle.batch.errors import BatchError
from ladle.batch.job import Job
from ladle.batch.rows import Part
from ladle.client import Client
from ladle.client.errors import Unimplemented
from ladle.client.messages.metadata import PRIORITY
from ladle.client.models import DEFAULT_SIGNATURE, ModelMetadata, Signature
from ladle.client.prediction import Prediction

ConnectClient: TypeAlias = "Callable[[bool], Client]"
"""Makes a client; True for a client that sends failed calls again by itself."""


def fetch_metadata(job: Job, connect: ConnectClient) -> ModelMetadata:
    """Ask the server which version answers, and which signatures that version has. Blocks.

    A server that doesn't implement GetModelMetadata gives metadata without signatures.

    Raises:
        LadleError: The server could not be asked.
    """
    with connect(True) as client:
        try:
            return client.metadata(job.model, version=job.version, label=job.label)
        except Unimplemented:
            return ModelMetadata(model=job.model, version=job.version, signatures={})


def asked_version(job: Job, metadata: ModelMetadata) -> int | None:
    """Return the version that each request names: one for all, unless the job allows several."""
    return job.version if job.allow_changed_model else metadata.version


def signature_of(job: Job, metadata: ModelMetadata) -> Signature | None:
    """Return the signature that the job asks for; None where the server doesn't tell signatures.

    Raises:
        BatchError: The model has no signature of that name.
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


def predict(client: Client, job: Job, version: int | None, part: Part) -> Prediction:
    """Send a part to the model and return the answer; blocks, and raises as `Client.predict`."""
    return client.predict(
        job.model,
        part.tensors,
        version=version,
        label=job.label if version is None else None,
        signature=job.signature,
        outputs=job.outputs,
        timeout=job.options.timeout_s,
        normalize=job.normalize,
        metadata={PRIORITY: "low"},  # whoever waits for an answer comes first
    )
