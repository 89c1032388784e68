"""Answers come out in the order of their rows, in whatever order they came in."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.batch.output import reorder
from ladle.batch.output.reorder import ReorderBuffer
from ladle.batch.rows import Answered


def answer(start: int, stop: int) -> Answered:
    text = np.array([b"x" * 30] * (stop - start), object)
    return Answered(start=start, stop=stop, numbers=np.arange(start, stop), outputs={"y": text})


@given(
    sizes=st.lists(st.integers(1, 5), max_size=20),
    first=st.integers(0, 9),
    seed=st.randoms(use_true_random=False),
)
def test_every_answer_comes_out_once_in_order(
    sizes: list[int], first: int, seed: random.Random
) -> None:
    answers, start = [], first
    for size in sizes:
        answers.append(answer(start, start + size))
        start += size
    seed.shuffle(answers)
    buffer, spans = ReorderBuffer(first), []
    for each in answers:
        buffer.add(each)
        while buffer.has_next:
            popped = buffer.pop()
            spans.append((popped.start, popped.stop))
    assert len(buffer) == 0
    assert spans == sorted(spans)
    assert [row for span in spans for row in range(*span)] == list(range(first, start))


def test_what_waits_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reorder, "MAX_WAITING_BYTES", 50)
    buffer = ReorderBuffer(0)
    buffer.add(answer(2, 4))
    assert buffer.is_full
    assert not buffer.has_next
    buffer.add(answer(0, 2))
    buffer.pop()
    buffer.pop()
    assert not buffer.is_full
