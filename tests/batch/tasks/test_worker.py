"""Which worker a process is, by its arguments and its environment, and what it begins with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ladle.batch.tasks.worker import Worker, order, parse_worker


@given(st.integers(0, 200), st.integers(1, 30), st.data())
def test_each_worker_comes_to_every_task_once(tasks: int, count: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, count - 1))
    own, others = order(tasks, Worker(index, count))
    rest = list(others)
    assert sorted([*own, *rest]) == list(range(tasks))
    assert own == list(range(own[0], own[-1] + 1)) if own else True


@given(st.integers(0, 200), st.integers(1, 30))
def test_workers_begin_with_tasks_of_their_own_and_shares_alike(tasks: int, count: int) -> None:
    begun = [order(tasks, Worker(index, count))[0] for index in range(count)]
    assert sorted(task for own in begun for task in own) == list(range(tasks))
    sizes = [len(own) for own in begun]
    assert max(sizes) - min(sizes) <= 1


def test_work_that_is_left_is_taken_from_its_end() -> None:
    assert list(order(6, Worker(0, 2))[1]) == [5, 4, 3]
    assert list(order(6, Worker(1, 3))[1]) == [5, 4, 1, 0]


SLURM = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_MIN": "1",
    "SLURM_ARRAY_TASK_STEP": "2",
}
AWS = {"AWS_BATCH_JOB_ARRAY_INDEX": "3", "AWS_BATCH_JOB_ARRAY_SIZE": "8"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "2"}


@pytest.mark.parametrize(
    ("text", "environ", "worker"),
    [
        ("0/1", {}, (0, 1)),
        ("3/8", KUBERNETES, (3, 8)),
        ("auto", AWS, (3, 8)),
        ("auto/9", AWS, (3, 9)),
        ("auto/5", KUBERNETES, (2, 5)),
        ("auto", SLURM, (3, 4)),  # 1, 3, 5, 7
        ("auto", SLURM | {"SLURM_ARRAY_TASK_ID": "100"}, (1, 4)),  # 1, 3, 5 and 100
        ("auto", {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}, (2, 3)),
        ("auto/2", {"SLURM_ARRAY_TASK_ID": "3"}, (1, 2)),
    ],
)
def test_a_worker_is_found(text: str, environ: dict[str, str], worker: tuple[int, int]) -> None:
    assert parse_worker(text, environ) == Worker(*worker)


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        ("", {}, "expected I/N with I from 0 to N-1, auto, or auto/N, got ''"),
        ("3", {}, "expected I/N"),
        ("8/8", {}, "expected I/N"),
        ("-1/8", {}, "expected I/N"),
        ("1/0", {}, "expected I/N"),
        ("auto/0", KUBERNETES, "expected I/N"),
        ("auto/", KUBERNETES, "expected I/N"),
        ("autos", KUBERNETES, "expected I/N"),
        ("١/٢", {}, "expected I/N"),  # noqa: RUF001
        ("1/2\n", {}, "expected I/N"),
        ("1" * 99 + "/2", {}, "expected I/N"),
        ("auto", {}, "expected JOB_COMPLETION_INDEX, SLURM_ARRAY_TASK_ID or AWS_BATCH"),
        ("auto/3", {}, "expected JOB_COMPLETION_INDEX"),
        ("auto", KUBERNETES, "Kubernetes does not say how many pods a Job has: expected auto/N"),
        ("auto/2", KUBERNETES, "JOB_COMPLETION_INDEX is 2, expected less than the number of"),
        ("auto/3", {"JOB_COMPLETION_INDEX": "x"}, "a whole number in JOB_COMPLETION_INDEX, got"),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "1"}, "whole number in AWS_BATCH_JOB_ARRAY_SIZE"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "whole number in SLURM_ARRAY_TASK_COUNT, got ''"),
    ],
)
def test_what_names_no_worker_is_refused(text: str, environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as refused:
        parse_worker(text, environ)
    assert len(str(refused.value)) < 200
