"""How much a reader reads at a time."""

from __future__ import annotations

CHUNK_BYTES = 8 << 20
"""About how many bytes of the input a chunk has."""
MAX_CHUNK_ROWS = 1 << 16
MAX_REQUEST_ROWS = 512
"""TensorFlow Serving refuses requests beyond its max_batch_size, which is 1000 by default."""


def chunk_rows(row_bytes: float) -> int:
    """Return how many rows of about `row_bytes` bytes a chunk has; at least 1."""
    rows = int(min(max(CHUNK_BYTES / max(row_bytes, 1.0), 1), MAX_CHUNK_ROWS))
    # A chunk of small rows is cut into requests of MAX_REQUEST_ROWS without a rest.
    return rows - rows % MAX_REQUEST_ROWS if rows > MAX_REQUEST_ROWS else rows
