"""The protocols by their names."""

from __future__ import annotations

from typing import Literal, TypeAlias

from ladle.client.calls.protocol import Protocol
from ladle.client.calls.tensorflow_serving import TENSORFLOW_SERVING

ProtocolName: TypeAlias = "Literal['tfs', 'v2']"
"""Which protocol the servers speak. "tfs": TensorFlow Serving's, and ladle's own methods. "v2": the
Open Inference Protocol, of Triton, KServe, MLServer and others."""


def protocol_named(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        ValueError: There is none.
    """
    if name == "tfs":
        return TENSORFLOW_SERVING
    if name == "v2":
        from ladle.client.calls.open_inference import (
            OPEN_INFERENCE,
        )  # imported here, because most programs don't speak it

        return OPEN_INFERENCE
    raise ValueError(f'protocol: expected "tfs" or "v2", got {name!r}')
