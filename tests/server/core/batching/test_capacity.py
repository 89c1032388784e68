from __future__ import annotations

import pytest

from ladle.server.core.batching.capacity import QueueCapacity
from ladle.server.core.batching.plan import BatchOptions
from ladle.server.core.batching.queue import QueueDepth
from ladle.server.core.errors import Unavailable

TWENTY = BatchOptions(max_batch_size=10, max_enqueued_batches=2)


def test_what_would_wait_alone_always_has_room() -> None:
    QueueCapacity(QueueDepth(running=1), max_bytes=10).check(1000, 1000, TWENTY)


def test_rows_and_bytes_are_bounded_together_with_what_waits() -> None:
    room = QueueCapacity(QueueDepth(requests=1, rows=15, nbytes=60), max_bytes=100)
    room.check(5, 40, TWENTY)
    with pytest.raises(Unavailable, match="15 rows wait of at most 20, and the request brings 6"):
        room.check(6, 0, TWENTY)
    with pytest.raises(Unavailable, match=r"60 bytes wait of at most 100, .* brings 41"):
        room.check(1, 41, TWENTY)
    room.check(6, 0, None)  # without batching the bounds are the defaults


def test_who_is_refused_hears_when_what_waits_will_have_run() -> None:
    room = QueueCapacity(QueueDepth(requests=1, rows=20), max_bytes=100)
    for _ in range(50):
        room.batch_took(0.5)
    with pytest.raises(Unavailable) as refused:
        room.check(1, 0, TWENTY)
    assert refused.value.reason == "queue_full"
    assert refused.value.retry_after_s == pytest.approx(1.5, rel=0.01)

    for _ in range(50):
        room.batch_took(3600)
    with pytest.raises(Unavailable) as refused:
        room.check(1, 0, TWENTY)
    assert refused.value.retry_after_s == 10
