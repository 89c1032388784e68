"""What was found out about requests that are alike, for the next that are like them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias
from weakref import ReferenceType

import numpy as np

from ladle.protos.serving_pb import ModelSpec
from ladle.server.core.batching.plan import Priority
from ladle.server.core.servable import Arrays, Model, Signature
from ladle.server.rpc.queued import Outputs

_MOST_TEMPLATES = 1024
# Longer ones are read anew each time, so that what callers make up takes some megabytes at most.
_MOST_BYTES = 1024

Fields: TypeAlias = "list[tuple[bytes, bytes]]"
"""What comes one after the other in each answer: bytes that all have, and bytes that all share."""


class Part(NamedTuple):
    """Where an input's bytes are in each request, and what they are."""

    content: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of the rows of one request."""


class Answers(Protocol):
    """Puts the answers to requests that are alike. Thread-safe."""

    @property
    def start(self) -> bytes:
        """What comes first in each answer that is put in fields, before the echo."""

    @property
    def end(self) -> bytes:
        """What comes last in each answer that is put in fields."""

    def fields(self, outputs: Outputs, count: int) -> Fields | None:
        """Return the answers to so many requests, whose rows are evenly in the outputs.

        None: outputs have to be encoded for each request by itself.
        """

    def encode(self, outputs: Outputs, echo: bytes) -> bytes:
        """Return the whole answer to one request.

        Raises:
            ServingError: No message can hold it.
        """

    def request_id(self, echo: bytes) -> str:
        """Return the id that a request brings; empty for none."""


class Plan(NamedTuple):
    """What requests of a template come down to at one version of their model.

    Nothing in it may hold a request, nor depend on the bytes of contents.
    """

    servable: ReferenceType[Model]
    """The version; a plan does not keep it loaded."""
    signature: Signature
    inputs: Arrays
    """Of the shapes and dtypes of one request, without its values."""
    outputs: tuple[str, ...]
    parts: Mapping[str, Part]
    """Where each input's bytes are."""
    answers: Answers


class Known(NamedTuple):
    """What is known of all requests of a template."""

    spec: ModelSpec
    """Which model and version they name."""
    priority: Priority
    plan: Plan | None = None
    """At the version that they went to last."""


class Plans(dict[bytes, Known]):
    """What is known, by template. For one thread. Put in by `keep` alone."""

    def keep(self, template: bytes, known: Known) -> None:
        """Keep what is known; of too many templates the first that came goes."""
        if len(template) > _MOST_BYTES:
            return
        if len(self) >= _MOST_TEMPLATES and template not in self:
            del self[next(iter(self))]
        self[template] = known
