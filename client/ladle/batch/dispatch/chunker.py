"""Cuts the chunks that were read into requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ladle.batch.readers.chunks import MAX_REQUEST_ROWS
from ladle.batch.rows import Part

# Well below the 4 MB that gRPC's servers accept by default.
REQUEST_BYTES = 1 << 20
# All requests in flight have no more bytes than this, unless one request alone has more.
IN_FLIGHT_BYTES = 64 << 20


class Chunker:
    """Takes chunks, and gives parts that go in one request each; for one thread.

    The first chunk shows how large rows are. That decides how many rows go in a request, and how
    many requests may be in flight.
    """

    def __init__(
        self,
        *,
        request_rows: int | None,
        shard_rows: int,
        max_in_flight: int,
        used_up: Callable[[], None],
    ) -> None:
        """`used_up` is called each time that nothing is left of a chunk."""
        self.max_in_flight = max_in_flight
        self._request_rows = request_rows
        self._shard_rows = shard_rows
        self._used_up = used_up
        self._chunks: deque[Part] = deque()
        self._is_measured = False

    @property
    def is_empty(self) -> bool:
        """Whether all chunks are used up."""
        return not self._chunks

    def add(self, chunk: Part) -> None:
        """Take the chunk that was read next."""
        self._chunks.append(chunk)

    def next(self) -> Part | None:
        """Cut off the next part, which ends at a shard's end at the latest; None without a chunk.

        All rows of the part may have failed, so that none is to be sent.
        """
        if not self._chunks:
            return None
        chunk = self._chunks[0]
        part, rest = chunk, None
        if len(chunk.numbers):
            rows = self._rows_of_request(chunk)
            if len(chunk.numbers) > rows:
                part, rest = chunk.cut(rows)
        end = (part.start // self._shard_rows + 1) * self._shard_rows
        if part.stop > end:
            part, rest = chunk.cut_before(end)
        if rest is None:
            self._chunks.popleft()
            self._used_up()
        else:
            self._chunks[0] = rest
        return part

    def shrink(self, rows: int) -> None:
        """Put at most `rows` rows into a request from now on."""
        assert self._request_rows is not None, "no part has been cut"
        self._request_rows = min(self._request_rows, rows)

    def _rows_of_request(self, chunk: Part) -> int:
        if not self._is_measured:
            self._is_measured = True
            row_bytes = chunk.nbytes / len(chunk.numbers)
            if self._request_rows is None:
                fitting = int(REQUEST_BYTES / max(row_bytes, 1))
                self._request_rows = max(1, min(fitting, MAX_REQUEST_ROWS))
            # A request has at least one row, however large rows are.
            most = int(IN_FLIGHT_BYTES / max(self._request_rows * row_bytes, 1))
            self.max_in_flight = max(1, min(most, self.max_in_flight))
        assert self._request_rows is not None
        return self._request_rows
